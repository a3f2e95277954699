"""Runs the commands of a cluster as a user does, and inspects what they leave behind."""

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
from jobs.settings import CHECKOUT
from tests.lake.spark_server import QUICK, skip_without_java

__all__ = ["QUICK", "Cluster", "Place", "skip_without_java"]


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
        """Run `exchange cluster …` to its end; returns exit code and output."""
        process = self.start(*words)
        # Making the class archive took 110 s longer on a slow machine.
        output, _ = process.communicate(timeout=800)
        return process.returncode, output

    def parts(self) -> dict[str, dict[str, Any]]:
        """The output of `status --json`, by part."""
        code, output = self.run("status", "--json")
        assert code == 0, output
        return {part["part"]: part for part in json.loads(output)}

    def settings(self) -> dict[str, str]:
        """The variables set by the cluster's env file, as a shell reads them."""
        text = (self.folder / "env").read_text(encoding="utf-8")
        words = [word for word in shlex.split(text) if word != "export"]
        return dict(word.split("=", 1) for word in words)

    def place(self, name: str, home: Path) -> dict[str, str]:
        """Create a schema for an exchange with its own lake on the cluster; returns the exchange's variables."""
        settings = self.settings()
        url = settings["EXCHANGE_DATABASE_URL"]
        with psycopg.connect(url.replace("postgresql+psycopg", "postgresql"), autocommit=True) as connection:
            connection.execute(f'CREATE SCHEMA "{name}"')
        return settings | {
            "EXCHANGE_HOME": str(home),
            "EXCHANGE_LAKE": f"{settings['EXCHANGE_LAKE']}/{name}",
            "EXCHANGE_DATABASE_URL": f"{url}&options=-csearch_path%3D{name}",
        }

    def secrets(self) -> list[str]:
        """Every secret of the cluster."""
        by_name = json.loads((self.folder / "secrets.json").read_text(encoding="utf-8"))
        passwords = by_name.pop("database").values()
        spark_secret = (self.folder / "spark.secret").read_text(encoding="utf-8").strip()
        return [*by_name.values(), *passwords, spark_secret]

    def left_running(self) -> list[str]:
        """Command lines of the cluster's processes that are still running."""
        commands = []
        for process in psutil.process_iter():
            try:
                is_marked = process.environ().get("EXCHANGE_CLUSTER_OF") == str(self.home)
                command = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if is_marked or str(self.home) in command:
                commands.append(command)
        return commands


@dataclass
class Place:
    """A place for an exchange, given by its environment variables."""

    patch: pytest.MonkeyPatch
    variables: dict[str, str]

    def enter(self) -> None:
        """Point this process to it."""
        engine.close()
        for name in ("EXCHANGE_SPARK", "EXCHANGE_LAKE", "EXCHANGE_DATABASE_URL"):
            self.patch.delenv(name, raising=False)
        for name, value in self.variables.items():
            self.patch.setenv(name, value)
