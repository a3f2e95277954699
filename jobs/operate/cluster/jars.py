"""Fetches the jars that Spark lacks (Delta Lake, S3), once, and verifies each against its digest in the repository.

The resolver is Spark's own (Apache Ivy), so proxies, certificates and mirrors work as they do for
`spark.jars.packages`; it fetches what `jars.lock` lists and nothing else.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from xml.sax.saxutils import quoteattr

from jobs.errors import ExchangeError, PublisherError, Tampered
from jobs.lake import delta_coordinates
from jobs.lake.objects import sha256_of
from jobs.operate.cluster.java import find_java
from jobs.operate.processes import last_words
from jobs.settings import settings

LOCK = Path(__file__).parent / "jars.lock"

# Resolved with their dependencies, like Delta; but not hadoop-aws, which would bring the whole AWS SDK, 600 MB.
_ROOTS = (
    "software.amazon.awssdk:s3:2.29.52",
    "software.amazon.awssdk:s3-transfer-manager:2.29.52",
    "software.amazon.awssdk:sts:2.29.52",
    "software.amazon.awssdk:kms:2.29.52",
    "org.wildfly.openssl:wildfly-openssl:2.1.4.Final",
)
_ROOTS_ALONE = ("org.apache.hadoop:hadoop-aws:3.4.2",)
_PATTERN = "[organisation]_[artifact]-[revision].[ext]"


@dataclass(frozen=True)
class Jar:
    """One line of the lock."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def file(self) -> str:
        """Its file name."""
        return f"{self.group}_{self.artifact}-{self.version}.jar"

    @property
    def coordinates(self) -> str:
        """Its Maven coordinates."""
        return f"{self.group}:{self.artifact}:{self.version}"


def spark_home() -> Path:
    """The Spark that pyspark contains."""
    spec = find_spec("pyspark")
    if spec is None or spec.origin is None:
        raise ExchangeError("pyspark is not installed", next_step="install this project with its dependencies")
    return Path(spec.origin).parent


def fetch_jars() -> list[Path]:
    """Every jar of the lock, fetched if it is missing.

    Raises:
        PublisherError: the repository does not answer, or lacks a jar.
        Tampered: a jar differs from the lock.
    """
    folder, locked = jars_folder(), read_lock()
    missing = [jar for jar in locked if not (folder / jar.file).exists()]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        # In the same folder, so that a jar appears there by one rename, and only once verified.
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as draft:
            _retrieve([jar.coordinates for jar in missing], [], Path(draft), alone=True)
            for jar in missing:
                _verify(Path(draft) / jar.file, jar)
                (Path(draft) / jar.file).replace(folder / jar.file)
    for jar in locked:
        _verify(folder / jar.file, jar)
    return jar_files()


def jars_folder() -> Path:
    """Folder of the jars, whether it exists or not."""
    return settings().jars or settings().cluster / "jars"


def jar_files() -> list[Path]:
    """Path of every jar of the lock, whether it has been fetched or not."""
    return [jars_folder() / jar.file for jar in read_lock()]


def read_lock() -> list[Jar]:
    """The lines of ``jars.lock``."""
    lines = LOCK.read_text(encoding="utf-8").splitlines()
    pairs = [line.split() for line in lines if line and not line.startswith("#")]
    return [_jar(coordinates, digest) for coordinates, digest in pairs]


def write_lock() -> list[Jar]:
    """Resolve the jars again and write the lock; returns its lines.

    Jars that Spark already has, in any version, are left out: which of two versions a class path loads is arbitrary.
    """
    spark_jars = {_name(file.name) for file in (spark_home() / "jars").iterdir()}
    with tempfile.TemporaryDirectory() as draft:
        _retrieve([delta_coordinates(), *_ROOTS], list(_ROOTS_ALONE), Path(draft), alone=False)
        jars = [_described(file) for file in sorted(Path(draft).glob("*.jar"))]
    missing = [jar for jar in jars if jar.artifact not in spark_jars]
    lines = [f"{jar.coordinates} {jar.sha256}\n" for jar in missing]
    LOCK.write_text("# Written by `exchange cluster lock-jars`: group:artifact:version sha256\n" + "".join(lines))
    return missing


def _jar(coordinates: str, digest: str) -> Jar:
    group, artifact, version = coordinates.split(":")
    return Jar(group, artifact, version, digest)


def _verify(file: Path, jar: Jar) -> None:
    digest = sha256_of(file)
    if digest == jar.sha256:
        return
    file.unlink()
    raise Tampered(
        f"{jar.coordinates} has the sha256 {digest}",
        where=str(file),
        expected=jar.sha256,
        next_step="it has been removed; check EXCHANGE_MAVEN_URL and try again",
    )


def _retrieve(roots: list[str], roots_alone: list[str], into: Path, *, alone: bool) -> None:
    """Have Ivy copy jars into a folder; with `alone` (and for `roots_alone`) without their dependencies."""
    work = into / "ivy"
    work.mkdir()
    (work / "settings.xml").write_text(_settings(work, alone), encoding="utf-8")
    (work / "ivy.xml").write_text(_module(roots, roots_alone, alone), encoding="utf-8")
    ivy = next((spark_home() / "jars").glob("ivy-*.jar"))
    files = {"-settings": work / "settings.xml", "-ivy": work / "ivy.xml", "-retrieve": into / _PATTERN}
    log = settings().cluster / "logs" / "jars.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        command = [str(find_java()), "-jar", str(ivy), *(str(argument) for pair in files.items() for argument in pair)]
        ended = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False)  # noqa: S603 - java
    shutil.rmtree(work)
    if ended.returncode:
        raise PublisherError(
            f"the jars could not be fetched: {last_words(log)}",
            where=settings().maven_url,
            next_step=f"see {log}; EXCHANGE_MAVEN_URL names another Maven repository",
        )


def _settings(work: Path, alone: bool) -> str:
    root = quoteattr(settings().maven_url.rstrip("/") + "/")
    # The lock replaces the POMs, and has stronger digests than the repository's own.
    short = 'usepoms="false" checksums="" descriptor="optional"' if alone else ""
    return f"""<ivysettings>
  <settings defaultResolver="maven"/>
  <caches defaultCacheDir={quoteattr(str(work / "cache"))}/>
  <resolvers><ibiblio name="maven" m2compatible="true" root={root} {short}/></resolvers>
</ivysettings>"""


def _module(roots: list[str], roots_alone: list[str], alone: bool) -> str:
    lines = []
    for coordinates in [*roots, *roots_alone]:
        group, artifact, version = map(quoteattr, coordinates.split(":"))
        by_itself = alone or coordinates in roots_alone
        conf = 'conf="default->*" transitive="false"' if alone else 'conf="default->master,runtime"'
        if by_itself and not alone:
            conf = 'conf="default->master" transitive="false"'
        lines.append(f"    <dependency org={group} name={artifact} rev={version} {conf}/>")
    return f"""<ivy-module version="2.0">
  <info organisation="exchange" module="cluster"/>
  <configurations><conf name="default"/></configurations>
  <dependencies>
{chr(10).join(lines)}
  </dependencies>
</ivy-module>"""


def _described(file: Path) -> Jar:
    group, _, rest = file.stem.partition("_")
    artifact = _name(rest + ".jar")
    return Jar(group, artifact, rest[len(artifact) + 1 :], sha256_of(file))


def _name(file: str) -> str:
    """``delta-spark_4.1_2.13`` of ``delta-spark_4.1_2.13-4.4.0.jar``."""
    return re.sub(r"-\d[^-]*(-\d[^-]*|\.Final)?\.jar$", "", file)
