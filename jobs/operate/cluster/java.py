"""Finds the Java that Spark and the resolver of its jars run on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from jobs.errors import ExchangeError

OLDEST = 17


def find_java() -> Path:
    """The program ``java`` of JAVA_HOME, or else of PATH.

    Raises:
        ExchangeError: there is none, it does not run, or it is too old for Spark.
    """
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=str(Path(home) / "bin")) if home else shutil.which("java")
    where = "JAVA_HOME" if home else "PATH"
    if found is None:
        raise ExchangeError(
            "there is no Java" + (f" in {home}" if home else ""),
            where=where,
            expected=f"Java {OLDEST} or newer, on which Spark runs",
            next_step="install it (Debian: apt-get install openjdk-17-jre-headless), or set JAVA_HOME",
        )
    program = Path(found).resolve()
    version = _version(program)
    if version < OLDEST:
        raise ExchangeError(
            f"{program} is Java {version or 'of no known version'}",
            where=where,
            expected=f"Java {OLDEST} or newer, on which Spark runs",
            next_step="install a newer one, or set JAVA_HOME to it",
        )
    return program


def _version(program: Path) -> int:
    asked = subprocess.run([program, "-version"], capture_output=True, text=True, check=False)  # noqa: S603 - java
    said = re.search(r'version "(?:1\.)?(\d+)', asked.stderr + asked.stdout)
    return int(said[1]) if said else 0
