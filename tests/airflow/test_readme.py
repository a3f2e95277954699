"""Runs every command of the README, in order, in a separate catalogue and home."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from jobs.operate.processes import free_port
from jobs.settings import CHECKOUT
from tests.airflow.programs import Installation
from tests.waiting import wait_until

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(1500)]

METERS = """meter,read_at,energy_kwh
A-1,2026-11-01T00:00:00Z,0.42
A-1,2026-11-01T01:00:00Z,0.38
B-7,2026-11-01T00:00:00Z,1.20
B-7,2026-11-01T01:00:00Z,1.25
"""
# Later data is not as clean as the sample.
LATER = METERS + "B-7,2026-11-01T02:00:00Z,much\n"
LOAD = "SELECT meter, count(*) AS readings, sum(energy_kwh) AS energy_kwh FROM silver.city_meters GROUP BY meter\n"
# What the README asks its reader to fill in before a release.
TERMS = {
    "status: draft": "status: active",
    "to be written": "written",
    "redistribution: unknown": "redistribution: yes",
    "id: unknown": "id: CC0-1.0",
    "https://to-be-written.invalid/": "https://creativecommons.org/publicdomain/zero/1.0/",
}


@dataclass(frozen=True)
class Command:
    """A command in the README."""

    kind: str
    text: str


@dataclass
class Reader:
    """Follows the README from its first line to its last, in a separate folder."""

    folder: Path
    environment: dict[str, str]
    servers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def shell(self, text: str) -> None:
        words = shlex.split(text)
        assert words[0] == "exchange", text
        if "--from" in words and words[1] == "verify":
            words = self.as_buyer(words)
        if words[1] == "serve":
            self.serve()
            return
        done = subprocess.run(
            [sys.executable, "-m", "jobs.cli", *words[1:]],
            cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=400, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        if words[2:3] == ["new"]:
            self.complete()

    def as_buyer(self, words: list[str]) -> list[str]:
        """Give a buyer what the README says they have: a profile, the exchange's key, and its address."""
        address = f"http://127.0.0.1:{self.environment['EXCHANGE_SHARE_PORT']}"
        profile, key = self.folder / "buyer.share", self.folder / "did.json"
        if not profile.exists():
            self.shell("exchange grant reference_rates --to 'A verifier' --days 1 --out buyer.share")
            self.serve()
            key.write_bytes(urllib.request.urlopen(f"{address}/.well-known/did.json", timeout=60).read())
        real = {"profile.share": profile.name, "https://share.example.com/delta-sharing": f"{address}/delta-sharing"}
        return [real.get(word, word) for word in words]

    def complete(self) -> None:
        """Fill in the terms of the new proposal, and drop the data of its source."""
        for file in (
            *self.folder.glob("dags/sources/utility/city_meters/*.yaml"),
            *self.folder.glob("dags/products/city_load/*.yaml"),
        ):
            text = file.read_text(encoding="utf-8")
            for before, after in TERMS.items():
                text = text.replace(before, after)
            file.write_text(text, encoding="utf-8")
        folder = Path(self.environment["EXCHANGE_HOME"]) / "drop" / "city_meters"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "meters.csv").write_text(LATER, encoding="utf-8")

    def serve(self) -> None:
        if self.servers:
            return
        self.servers.append(
            subprocess.Popen([sys.executable, "-m", "jobs.cli", "serve"], cwd=self.folder, env=self.environment)
        )
        wait_until(self._answers)

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self.environment['EXCHANGE_SHARE_PORT']}/", timeout=5)
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True

    def python(self, text: str) -> None:
        if "delta_sharing" in text:
            self.shell("exchange grant reference_rates --to 'A reader' --days 1 --out profile.share")
            self.serve()
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", text],
            cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=400, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        if "delta_sharing" in text:
            (self.folder / "profile.share").unlink()


def commands() -> list[Command]:
    """The README's commands: indented lines that start with a program's name, and blocks of Python."""
    text = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    shell = re.compile(r"^    ((?:make|exchange)\b[^\n]*)$", re.M)
    positioned: list[tuple[int, Command]] = []
    for block in re.finditer(r"^```python\n(.*?)^```", text, re.M | re.S):
        positioned.append((block.start(), Command("python", block.group(1))))
    for line in shell.finditer(text):
        kind = "make" if line.group(1).startswith("make") else "shell"
        positioned.append((line.start(), Command(kind, line.group(1))))
    return [command for _, command in sorted(positioned, key=lambda pair: pair[0])]


@pytest.fixture
def reader(exchange: Installation) -> Iterator[Reader]:
    for folder in ("dags", "expectations"):
        shutil.copytree(CHECKOUT / folder, exchange.catalogue / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (exchange.catalogue / "meters.csv").write_text(METERS, encoding="utf-8")
    (exchange.catalogue / "city_load.sql").write_text(LOAD, encoding="utf-8")
    reader = Reader(exchange.catalogue, exchange.environment() | {"EXCHANGE_SHARE_PORT": str(free_port(0))})
    yield reader
    for server in reader.servers:
        server.terminate()
        server.wait()


@pytest.mark.long
def test_every_command_of_the_readme_runs(reader: Reader, exchange: Installation) -> None:
    expected = commands()
    assert {c.kind for c in expected} == {"make", "shell", "python"}
    code, output = exchange.run()
    assert code == 0, output
    for command in expected:
        if command.kind == "make":
            # `make run` is the run above; `make test` runs this test.
            subprocess.run(
                ["make", "-n", *shlex.split(command.text)[1:]], cwd=CHECKOUT, check=True, capture_output=True
            )
        elif command.kind == "shell":
            reader.shell(command.text)
        else:
            reader.python(command.text)
    assert "B-7" in _quarantine(reader)


def test_targets_named_in_the_readme_exist() -> None:
    text = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    listed = subprocess.run(["make"], cwd=CHECKOUT, check=True, capture_output=True, text=True).stdout
    for target in set(re.findall(r"`(?:\w+=\w+ )?make (\w+)", text)):
        assert f"make {target}" in listed


def _quarantine(reader: Reader) -> str:
    return subprocess.run(
        [sys.executable, "-m", "jobs.cli", "quarantine", "city_meters", "--json"],
        cwd=reader.folder, env=reader.environment, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
