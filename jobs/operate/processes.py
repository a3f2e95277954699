"""Starts the programs that this project runs beside itself, finds them again whatever became of their starter, and
ends them: Airflow's services and the parts of a cluster alike."""

from __future__ import annotations

import ctypes
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

_LOG_BYTES = 5_000_000
_TOLD = r"\[(error|critical)|Error|FATAL|Exception"


@dataclass(frozen=True)
class Mark:
    """An environment variable that every process of a kind carries, whatever group or parent it ends up with."""

    name: str
    value: str

    def carriers(self) -> list[psutil.Process]:
        """The living processes that carry it, this one left out."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.pid != os.getpid() and process.environ().get(self.name) == self.value:
                    found.append(process)
        return found

    def end_all(self) -> None:
        """End every carrier at once."""
        for _ in range(3):
            found = self.carriers()
            for process in found:
                with suppress(psutil.Error):
                    process.kill()
            if not psutil.wait_procs(found, timeout=3)[1] and not found:
                return


def launch(
    command: Sequence[str],
    *,
    mark: Mark,
    log: Path,
    environment: Mapping[str, str],
    folder: Path,
    ends_with_parent: bool,
    user: str | None = None,
    keep_open: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own.

    Args:
        log: what it says is added to this file.
        environment: variables it gets beside, or instead of, those of this process.
        folder: its working directory.
        ends_with_parent: whether it ends when this process does; otherwise it stays until somebody ends it.
        user: who runs it, where that is not who runs this process.
        keep_open: file descriptors that it inherits.
    """
    with open_log(log) as output:
        return subprocess.Popen(  # noqa: S603 - programs and words of our own, never a shell
            list(command),
            env=dict(os.environ) | dict(environment) | {mark.name: mark.value},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            start_new_session=True,
            preexec_fn=_end_with_parent() if ends_with_parent else None,
            user=user,
            group=group_of(user),
            extra_groups=[] if user else None,
            pass_fds=tuple(keep_open),
        )


def group_of(user: str | None) -> int | None:
    """The user's own group; None where no user is named, who then is the one of this process."""
    return pwd.getpwnam(user).pw_gid if user else None


def end_gently(processes: Sequence[psutil.Process], sign: signal.Signals, seconds: float) -> None:
    """Ask processes to end, wait, and end at once those that have not by then."""
    for step in (sign, signal.SIGKILL):
        left = [process for process in processes if is_alive(process)]
        for process in left:
            with suppress(psutil.Error):
                process.send_signal(step)
        deadline = time.monotonic() + seconds
        while any(map(is_alive, left)) and time.monotonic() < deadline:
            time.sleep(0.02)


def is_alive(process: psutil.Process) -> bool:
    """Whether a process still runs; one that has ended counts as gone although nobody asked how it ended."""
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def open_log(file: Path) -> IO[bytes]:
    """A log to add to; one that has grown long is put aside as ``.log.1`` first."""
    if file.exists() and file.stat().st_size > _LOG_BYTES:
        shutil.move(file, file.with_suffix(".log.1"))
    return file.open("ab")


def last_words(log: Path) -> str:
    """The line of a log's end that tells most: the last that speaks of an error, else the last one."""
    with suppress(OSError):
        lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()[-40:]]
        said = [line for line in lines if line] or ["its log is empty"]
        bad = [line for line in said if re.search(_TOLD, line)]
        return bad[-1] if bad else said[-1]
    return "it wrote no log"


def free_port(preferred: int) -> int:
    """A port nobody listens on: the preferred one if it is free, else (and for 0) any."""
    if preferred and is_free(preferred):
        return preferred
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    """Whether nobody listens on a port of the loopback interface."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def write_private(file: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
        out.write(text)
    temporary.replace(file)


def _end_with_parent() -> Callable[[], None] | None:
    if not sys.platform.startswith("linux"):
        return None
    set_option = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def ask() -> None:
        # PR_SET_PDEATHSIG: a runner that is killed cannot stop its services, so the kernel does.
        set_option(1, signal.SIGTERM)
        if os.getppid() != parent:
            # It was killed before it was asked for.
            os.kill(os.getpid(), signal.SIGKILL)

    return ask
