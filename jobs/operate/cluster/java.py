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
    """The program ``java`` from JAVA_HOME, else from PATH.

    Raises:
        ExchangeError: there is none, it does not run, or it is too old for Spark.
    """
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=str(Path(home) / "bin")) if home else shutil.which("java")
    where = "JAVA_HOME" if home else "PATH"
    if java is None:
        raise ExchangeError(
            "there is no Java" + (f" in {home}" if home else ""),
            where=where,
            expected=f"Java {OLDEST} or newer, on which Spark runs",
            next_step="install it (Debian: apt-get install openjdk-17-jre-headless), or set JAVA_HOME",
        )
    program = Path(java).resolve()
    version = _version(program)
    if version < OLDEST:
        raise ExchangeError(
            f"{program} is Java {version or 'of unknown version'}",
            where=where,
            expected=f"Java {OLDEST} or newer, on which Spark runs",
            next_step="install a newer one, or set JAVA_HOME to it",
        )
    return program


def _version(program: Path) -> int:
    result = subprocess.run([program, "-version"], capture_output=True, text=True, check=False)  # noqa: S603 - java
    match = re.search(r'version "(?:1\.)?(\d+)', result.stderr + result.stdout)
    return int(match[1]) if match else 0
