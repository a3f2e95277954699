"""Runs steps in processes that die at a named point or at any instant, to test what that leaves behind.

Run as a program, it imports everything once, then forks a process for each order it reads: the fork need not import
again, and the process that dies starts its own engine.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.settings import CHECKOUT

Step = tuple[str, str, int]


@dataclass
class Undertaker:
    """Starts the program and sends it orders."""

    process: subprocess.Popen[str]

    @classmethod
    def begin(cls) -> Undertaker:
        """Start the program."""
        return cls(
            subprocess.Popen(
                [sys.executable, "-m", "tests.lake.killed"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=CHECKOUT,
            )
        )

    def run(
        self, home: Path, catalogue: Path, steps: Sequence[Step], *, at: str = "", nth: int = 1, after: bool = True,
        seconds: float = 0.0, **environment: str,
    ) -> dict[str, Any]:  # fmt: skip
        """Run steps of (step, name, day) in a process that may die.

        Args:
            home: the exchange's state.
            catalogue: its declarations.
            steps: steps to run, in order.
            at: the function, as ``module:name``, whose nth call kills the process.
            nth: which call.
            after: whether it dies after the call or before it.
            seconds: when to kill it, unless `at` is given.
            environment: further variables.

        Returns:
            ``signal`` that ended it (0 if none), ``error`` that stopped a step, ``statuses`` of the steps done.
        """
        order = {
            "environment": {
                "EXCHANGE_HOME": str(home), "EXCHANGE_CATALOGUE": str(catalogue),
                "EXCHANGE_SPARK": os.environ.get("EXCHANGE_SPARK", "embedded"), **environment,
            },
            "steps": list(steps), "at": at, "nth": nth, "after": after, "seconds": seconds,
        }  # fmt: skip
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, "the program ended"
        return dict(json.loads(answer))

    def end(self) -> None:
        """End the program."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(timeout=120)


def _serve() -> None:
    for module in (
        "jobs.flow",
        "jobs.check.evaluate",
        "jobs.check.step",
        "jobs.silver.step",
        "jobs.gold.step",
        "jobs.land.step",
        "jobs.land.connectors.drop",
        "jobs.bronze.formats.delimited",
        "jobs.registry.models",
        "deltalake",
        "pysail.spark",
        "pyspark.sql.connect.session",
        "great_expectations",
    ):
        importlib.import_module(module)
    for line in sys.stdin:
        print(json.dumps(_fork(json.loads(line))), flush=True)


def _fork(order: dict[str, Any]) -> dict[str, Any]:
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        os.dup2(2, 1)
        with os.fdopen(writer, "w") as reports:
            _work(order, reports)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as reports:
        if order["seconds"]:
            _wait(order["seconds"])
            os.kill(child, signal.SIGKILL)
        lines = [json.loads(line) for line in reports]
    _, status = os.waitpid(child, 0)
    errors = [line["error"] for line in lines if "error" in line]
    return {
        "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
        "error": errors[0] if errors else None,
        "statuses": [line["status"] for line in lines if "status" in line],
    }


def _wait(seconds: float) -> None:
    import time

    time.sleep(seconds)


def _work(order: dict[str, Any], reports: Any) -> None:
    import time

    os.environ.update(order["environment"])
    time.tzset()
    from jobs.errors import ExchangeError
    from jobs.flow import run_step
    from tests.lake.trial import accept, day

    if order["at"]:
        _arm(order["at"], order["nth"], order["after"])
    try:
        for step, name, at in order["steps"]:
            if step == "accept":
                accept(name)
                continue
            result = run_step(step, name, day(at), "killed")
            reports.write(json.dumps({"status": result.status}) + "\n")
            reports.flush()
    except ExchangeError as error:
        reports.write(json.dumps({"error": f"{type(error).__name__}: {error}"}) + "\n")
        reports.flush()


def _arm(at: str, nth: int, after: bool) -> None:
    """Replace a function with one that kills the process on its nth call."""
    module_name, name = at.split(":")
    owner: Any = importlib.import_module(module_name)
    *path, last = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    original: Callable[..., Any] = getattr(owner, last)
    calls = 0

    def deadly(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        result = None if calls == nth and not after else original(*args, **kwargs)
        if calls == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, last, deadly)


if __name__ == "__main__":
    _serve()
