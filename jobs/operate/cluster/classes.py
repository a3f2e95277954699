"""Names the archive that Spark's JVMs map their classes from (Java's class data sharing).

Loading, verifying and laying out some twenty thousand classes from jars is most of the cost of a start and of the first
queries. Java maps the archive instead if it matches: the same Java, the same jars in the same order, no folder among
them. If it does not match, Java silently loads classes as usual.
See https://docs.oracle.com/en/java/javase/17/vm/class-data-sharing.html
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from jobs.operate.cluster.jars import jar_files, jars_folder, spark_home
from jobs.operate.cluster.java import find_java


def class_path() -> str:
    """The jars that come before Spark's own, the same for every part."""
    return os.pathsep.join(map(str, jar_files()))


def classes_file() -> Path:
    """Where the archive of this Java and these jars is, or will be."""
    java, spark_jars = find_java(), spark_home() / "jars"
    # The modification times change when another version is installed.
    parts = [class_path(), *(f"{path} {path.stat().st_mtime_ns}" for path in (java, spark_jars))]
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return jars_folder() / f"classes-{digest[:16]}.jsa"


def java_options() -> list[str]:
    """Options that make a part's Java use the archive; empty while there is none."""
    archive = classes_file()
    if not archive.exists() or not archive.stat().st_size:
        return []
    # Spark's launcher is a JVM too, with another class path; its output is read as a command, so nothing may be logged.
    return [f"-XX:SharedArchiveFile={archive}", "-Xlog:disable", "-Xlog:all=error:stderr"]
