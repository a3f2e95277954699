"""What Spark needs: a recent Java, and jars with the checksums of the lock."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from jobs.errors import ExchangeError, PublisherError, Tampered
from jobs.lake import delta_coordinates
from jobs.operate.cluster import jars
from jobs.operate.cluster.database import find_postgres
from jobs.operate.cluster.java import find_java
from tests.cluster.running import skip_without_java

GOOD = b"the bytes of a jar"


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A Maven repository with the only jar that the lock names; yields that jar's file."""
    skip_without_java()
    served = tmp_path / "mirror" / "org" / "example" / "thing" / "1.0" / "thing-1.0.jar"
    served.parent.mkdir(parents=True)
    served.write_bytes(GOOD)
    lock = tmp_path / "jars.lock"
    lock.write_text(f"# group:artifact:version sha256\norg.example:thing:1.0 {hashlib.sha256(GOOD).hexdigest()}\n")
    monkeypatch.setattr(jars, "LOCK", lock)
    monkeypatch.setenv("EXCHANGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("EXCHANGE_JARS", str(tmp_path / "jars"))
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "mirror"))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("EXCHANGE_MAVEN_URL", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("JDK_JAVA_OPTIONS", "-Dhttp.nonProxyHosts=127.0.0.1")
    yield served
    server.shutdown()
    server.server_close()


def test_jars_are_fetched_once_from_the_configured_repository(mirror: Path, tmp_path: Path) -> None:
    (fetched,) = jars.fetch_jars()
    assert fetched == tmp_path / "jars" / "org.example_thing-1.0.jar"
    assert fetched.read_bytes() == GOOD
    mirror.unlink()
    assert jars.fetch_jars() == [fetched]
    assert list(fetched.parent.iterdir()) == [fetched]


def test_a_jar_with_another_checksum_is_refused(mirror: Path, tmp_path: Path) -> None:
    mirror.write_bytes(b"other bytes")
    with pytest.raises(Tampered, match=r"org\.example:thing:1\.0 has the sha256 .*; expected .*EXCHANGE_MAVEN_URL"):
        jars.fetch_jars()
    assert not list((tmp_path / "jars").iterdir())


def test_a_repository_without_the_jar_is_reported(mirror: Path) -> None:
    mirror.unlink()
    with pytest.raises(PublisherError, match=r"127\.0\.0\.1:\d+.*the jars could not be fetched.*EXCHANGE_MAVEN_URL"):
        jars.fetch_jars()


def test_the_lock_pins_delta_for_this_spark_and_no_jar_of_spark_itself() -> None:
    locked = {jar.artifact: jar for jar in jars.read_lock()}
    assert locked["delta-spark_4.1_2.13"].coordinates == delta_coordinates()
    assert {"hadoop-aws", "s3", "sts", "kms"} <= set(locked)
    spark_jars = {re.sub(r"-\d.*", "", file.name) for file in (jars.spark_home() / "jars").iterdir()}
    assert spark_jars & set(locked) == set()
    assert all(re.fullmatch(r"[0-9a-f]{64}", jar.sha256) for jar in locked.values())


@pytest.mark.parametrize(
    ("version", "message"), [("11.0.2", "is Java 11"), ("1.8.0_402", "is Java 8"), ("", "of unknown version")]
)
def test_an_old_java_is_refused(
    version: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "java"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
    program.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(ExchangeError, match=f"JAVA_HOME: .*{message}; expected Java 17 or newer"):
        find_java()


def test_missing_programs_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(ExchangeError, match=r"there is no Java; .*apt-get install openjdk"):
        find_java()
    with pytest.raises(ExchangeError, match=r"PostgreSQL is not installed; .*apt-get install postgresql"):
        find_postgres(tmp_path)
