"""Knows the file from which Spark's processes take the classes of their start (Java's class data sharing).

Loading some twenty thousand classes from jars, checking them and laying them out is most of what a start and the first
queries cost. Java maps the file instead, where it fits: the same Java, the same jars in the same order, no folder among
them. Where it does not, Java loads as ever and says nothing.
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
    """Where the file of this Java and these jars is, or will be."""
    java, theirs = find_java(), spark_home() / "jars"
    # Both change when another version takes their place.
    known = [class_path(), *(f"{path} {path.stat().st_mtime_ns}" for path in (java, theirs))]
    digest = hashlib.sha256("\n".join(known).encode()).hexdigest()
    return jars_folder() / f"classes-{digest[:16]}.jsa"


def java_options() -> list[str]:
    """What a part's Java is told so that it uses the file; nothing while there is none."""
    kept = classes_file()
    if not kept.exists() or not kept.stat().st_size:
        return []
    # Spark's launcher is a Java too, whose class path is another, and whose output is a command.
    return [f"-XX:SharedArchiveFile={kept}", "-Xlog:disable", "-Xlog:all=error:stderr"]
