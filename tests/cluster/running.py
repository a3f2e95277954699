"""A cluster as the tests see it: commands run as a person runs them, and what they leave."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from jobs.lake import engine
from tests.lake.spark_server import CHECKOUT, QUICK, skip_without_java

__all__ = ["CHECKOUT", "QUICK", "Cluster", "Place", "skip_without_java"]


@dataclass(frozen=True)
class Cluster:
    """The cluster of one EXCHANGE_HOME."""

    home: Path
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.home / "cluster"

    def environment(self) -> dict[str, str]:
        return dict(os.environ) | QUICK | {"EXCHANGE_HOME": str(self.home)} | self.variables

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start `exchange cluster …`."""
        return subprocess.Popen(
            [sys.executable, "-m", "jobs.cli", "cluster", *words],
            cwd=CHECKOUT, env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def run(self, *words: str) -> tuple[int, str]:
        """Run it to its end: exit code and all that it printed."""
        started = self.start(*words)
        # One that makes the file of classes took 110 s longer on a slow machine.
        said, _ = started.communicate(timeout=800)
        return started.returncode, said

    def parts(self) -> dict[str, dict[str, Any]]:
        """What `status --json` tells, by part."""
        code, said = self.run("status", "--json")
        assert code == 0, said
        return {part["part"]: part for part in json.loads(said)}

    def settings(self) -> dict[str, str]:
        """The variables that the cluster's file sets, as a shell reads them."""
        text = (self.folder / "env").read_text(encoding="utf-8")
        words = [word for word in shlex.split(text) if word != "export"]
        return dict(word.split("=", 1) for word in words)

    def place(self, name: str, home: Path) -> dict[str, str]:
        """The variables of an exchange with a lake of its own there, and records of its own in the database."""
        found = self.settings()
        url = found["EXCHANGE_DATABASE_URL"]
        with psycopg.connect(url.replace("postgresql+psycopg", "postgresql"), autocommit=True) as connection:
            connection.execute(f'CREATE SCHEMA "{name}"')
        return found | {
            "EXCHANGE_HOME": str(home),
            "EXCHANGE_LAKE": f"{found['EXCHANGE_LAKE']}/{name}",
            "EXCHANGE_DATABASE_URL": f"{url}&options=-csearch_path%3D{name}",
        }

    def secrets(self) -> list[str]:
        """Every secret of the cluster."""
        known = json.loads((self.folder / "secrets.json").read_text(encoding="utf-8"))
        found = [value for key, value in known.items() if key != "database"]
        return [*found, *known["database"].values(), (self.folder / "spark.secret").read_text(encoding="utf-8").strip()]

    def left_running(self) -> list[str]:
        """Command lines of processes that belong to the cluster."""
        found = []
        for process in psutil.process_iter():
            try:
                carried = process.environ().get("EXCHANGE_CLUSTER_OF") == str(self.home)
                words = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if carried or str(self.home) in words:
                found.append(words)
        return found


@dataclass
class Place:
    """Somewhere an exchange can be: settings of its own."""

    patch: pytest.MonkeyPatch
    variables: dict[str, str]

    def enter(self) -> None:
        """Let this process work there."""
        engine.close()
        for name in ("EXCHANGE_SPARK", "EXCHANGE_LAKE", "EXCHANGE_DATABASE_URL"):
            self.patch.delenv(name, raising=False)
        for name, value in self.variables.items():
            self.patch.setenv(name, value)
