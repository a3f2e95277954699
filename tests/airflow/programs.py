"""Runs the exchange's commands as a user does, and inspects what they leave behind."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from jobs.settings import CHECKOUT

# Migrates the databases of a home, as the first start does.
_PREPARE = """
from jobs.airflow.configuration import Pace
from jobs.airflow.services import Services
from jobs.registry import reading
Services().prepare(Pace(port=0, idle_seconds=1, reread_seconds=30))
with reading():
    pass
"""


@dataclass
class Installation:
    """An EXCHANGE_HOME with its own catalogue; `end` stops everything started in it."""

    home: Path
    catalogue: Path
    variables: dict[str, str] = field(default_factory=dict)
    _started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, command: str = "run") -> subprocess.Popen[str]:
        """Start `exchange run` or `exchange up`."""
        process = subprocess.Popen(
            [sys.executable, "-m", "jobs.cli", command],
            cwd=CHECKOUT, env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            preexec_fn=_restore_interrupts,
        )  # fmt: skip
        self._started.append(process)
        return process

    def run(self) -> tuple[int, str]:
        """Run `exchange run` to its end; returns exit code and output."""
        process = self.start()
        output, _ = process.communicate(timeout=500)
        return process.returncode, output

    def environment(self) -> dict[str, str]:
        folders = {"EXCHANGE_HOME": str(self.home), "EXCHANGE_CATALOGUE": str(self.catalogue)}
        return dict(os.environ) | folders | self.variables

    def tables(self) -> dict[str, int]:
        """The checked version of each table."""
        with closing(sqlite3.connect(self.home / "registry.db")) as registry:
            return dict(registry.execute("select table_name, delta_version from pointers").fetchall())

    def services(self) -> Iterator[psutil.Process]:
        """All processes started by this home's services."""
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("EXCHANGE_SERVICES_OF") == str(self.home):
                    yield process

    def left_running(self) -> list[str]:
        """Command lines of this home's service processes that are still running."""
        commands = []
        for process in self.services():
            with suppress(psutil.Error):
                commands.append(" ".join(process.cmdline()))
        return commands

    def end(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
                process.wait()
        for service in self.services():
            with suppress(psutil.Error):
                service.kill()


def _restore_interrupts() -> None:
    """Handle SIGINT as on a terminal: a shell that runs the tests in the background ignores it for its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass(frozen=True)
class Template:
    """A home with migrated, empty databases to copy: Airflow's migrations take ten seconds of processor time."""

    home: Path

    def make(self) -> Template:
        """Migrate the databases, unless another process of this test run has; concurrent callers wait."""
        self.home.parent.mkdir(parents=True, exist_ok=True)
        with self.home.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self._marker.exists():
                environment = dict(os.environ) | {"EXCHANGE_HOME": str(self.home)}
                subprocess.run([sys.executable, "-c", _PREPARE], cwd=CHECKOUT, env=environment, check=True)
        return self

    def copy_to(self, home: Path) -> None:
        """Copy the databases into a home; secrets are not copied, each home makes its own."""
        (home / "airflow").mkdir(parents=True)
        for name in ("registry.db", "airflow/airflow.db"):
            shutil.copy(self.home / name, home / name)
        # The marker names its database.
        text = self._marker.read_text(encoding="utf-8").replace(str(self.home), str(home))
        (home / "airflow" / "migrated").write_text(text, encoding="utf-8")

    @property
    def _marker(self) -> Path:
        return self.home / "airflow" / "migrated"
