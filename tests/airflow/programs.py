"""Programs of the exchange as the tests of Airflow see them: run as a person runs them, and what they leave."""

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

CHECKOUT = Path(__file__).resolve().parents[2]

# Brings the databases of a home up to date, as the first start there does.
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
    """One EXCHANGE_HOME with a catalogue of its own; whatever was started in it is ended at the end of the test."""

    home: Path
    catalogue: Path
    variables: dict[str, str] = field(default_factory=dict)
    _started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, command: str = "run") -> subprocess.Popen[str]:
        """Start `exchange run` or `exchange up`."""
        started = subprocess.Popen(
            [sys.executable, "-m", "jobs.cli", command],
            cwd=CHECKOUT, env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            preexec_fn=_heed_interrupts,
        )  # fmt: skip
        self._started.append(started)
        return started

    def run(self) -> tuple[int, str]:
        """Run `exchange run` to its end: exit code and all that it printed."""
        started = self.start()
        said, _ = started.communicate(timeout=500)
        return started.returncode, said

    def environment(self) -> dict[str, str]:
        places = {"EXCHANGE_HOME": str(self.home), "EXCHANGE_CATALOGUE": str(self.catalogue)}
        return dict(os.environ) | places | self.variables

    def tables(self) -> dict[str, int]:
        """The checked version of each table."""
        with closing(sqlite3.connect(self.home / "registry.db")) as registry:
            return dict(registry.execute("select table_name, delta_version from pointers").fetchall())

    def services(self) -> Iterator[psutil.Process]:
        """All processes that services of this home started."""
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("EXCHANGE_SERVICES_OF") == str(self.home):
                    yield process

    def left_running(self) -> list[str]:
        """Command lines of processes that services of this home left behind."""
        found = []
        for process in self.services():
            with suppress(psutil.Error):
                found.append(" ".join(process.cmdline()))
        return found

    def end(self) -> None:
        for started in self._started:
            if started.poll() is None:
                started.kill()
                started.wait()
        for process in self.services():
            with suppress(psutil.Error):
                process.kill()


def _heed_interrupts() -> None:
    """Let Ctrl-C be heard, as on a terminal: whoever runs the tests in the background had it ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass(frozen=True)
class Template:
    """A home whose databases are up to date and empty: Airflow's migrations take ten seconds of processor time."""

    home: Path

    def make(self) -> Template:
        """Make it, unless another process of this run of the tests has done so; the others wait for it."""
        self.home.parent.mkdir(parents=True, exist_ok=True)
        with self.home.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self._marker.exists():
                environment = dict(os.environ) | {"EXCHANGE_HOME": str(self.home)}
                subprocess.run([sys.executable, "-c", _PREPARE], cwd=CHECKOUT, env=environment, check=True)
        return self

    def copy_to(self, home: Path) -> None:
        """Give a home these databases. Secrets are none of them: each home makes its own."""
        (home / "airflow").mkdir(parents=True)
        for name in ("registry.db", "airflow/airflow.db"):
            shutil.copy(self.home / name, home / name)
        # It also says of which database it speaks.
        text = self._marker.read_text(encoding="utf-8").replace(str(self.home), str(home))
        (home / "airflow" / "migrated").write_text(text, encoding="utf-8")

    @property
    def _marker(self) -> Path:
        return self.home / "airflow" / "migrated"
