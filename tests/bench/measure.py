"""Runs a command and measures the peak memory of its whole process tree."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

_EVERY = 0.1


@dataclass(frozen=True)
class Ended:
    """A command that ended: exit code, peak resident memory of its process tree in bytes, and its output."""

    code: int
    peak: int
    output: str


def watched(command: list[str], *, log: Path, env: dict[str, str], cwd: Path, limit: float) -> Ended:
    """Run a command to its end; after `limit` seconds, kill it with everything it started."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=env, cwd=cwd)
        peak = [0]
        ended = threading.Event()
        watch = threading.Thread(target=_watch, args=(process.pid, peak, ended), daemon=True)
        watch.start()
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            _kill(process.pid)
            code = process.wait()
        finally:
            ended.set()
            watch.join()
    return Ended(code, peak[0], log.read_text(errors="replace"))


def _watch(pid: int, peak: list[int], ended: threading.Event) -> None:
    while not ended.wait(_EVERY):
        peak[0] = max(peak[0], _resident(pid))


def _resident(pid: int) -> int:
    total = 0
    with suppress(psutil.Error):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with suppress(psutil.Error):
                total += process.memory_info().rss
    return total


def _kill(pid: int) -> None:
    with suppress(psutil.Error):
        root = psutil.Process(pid)
        for process in (*root.children(recursive=True), root):
            with suppress(psutil.Error):
                process.kill()


def machine() -> dict[str, object]:
    """The machine, and how busy it was with other work."""
    memory = psutil.virtual_memory()
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(memory.total / 2**30, 1),
        "load_1m": round(os.getloadavg()[0], 2),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
