"""Starts, finds and ends the programs that this project runs: Airflow's services and the parts of a cluster."""

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
_ERROR = r"\[(error|critical)|Error|FATAL|Exception"


@dataclass(frozen=True)
class Mark:
    """An environment variable that identifies every process of a kind, whatever group or parent it ends up with."""

    name: str
    value: str

    def carriers(self) -> list[psutil.Process]:
        """The running processes that carry it, except this one."""
        carriers = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.pid != os.getpid() and process.environ().get(self.name) == self.value:
                    carriers.append(process)
        return carriers

    def end_all(self) -> None:
        """Kill every carrier."""
        for _ in range(3):
            carriers = self.carriers()
            for process in carriers:
                with suppress(psutil.Error):
                    process.kill()
            if not psutil.wait_procs(carriers, timeout=3)[1] and not carriers:
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
        log: its output is appended to this file.
        environment: variables that are added to, or replace, those of this process.
        folder: its working directory.
        ends_with_parent: whether it ends when this process does; otherwise it runs until it is ended.
        user: the user to run it as; None for the user of this process.
        keep_open: file descriptors that it inherits.
    """
    with open_log(log) as output:
        return subprocess.Popen(  # noqa: S603 - programs and arguments of our own, never a shell
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
    """The user's own group; None for None, the user of this process."""
    return pwd.getpwnam(user).pw_gid if user else None


def end_gently(processes: Sequence[psutil.Process], sign: signal.Signals, seconds: float) -> None:
    """Send processes a signal, wait up to `seconds`, and kill those that still run."""
    for step in (sign, signal.SIGKILL):
        left = [process for process in processes if is_alive(process)]
        for process in left:
            with suppress(psutil.Error):
                process.send_signal(step)
        deadline = time.monotonic() + seconds
        while any(map(is_alive, left)) and time.monotonic() < deadline:
            time.sleep(0.02)


def is_alive(process: psutil.Process) -> bool:
    """Whether a process still runs; a zombie, whose parent has not read its exit code, does not."""
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def open_log(file: Path) -> IO[bytes]:
    """Open a log for appending; a log that has grown long is first renamed to ``.log.1``."""
    if file.exists() and file.stat().st_size > _LOG_BYTES:
        shutil.move(file, file.with_suffix(".log.1"))
    return file.open("ab")


def last_words(log: Path) -> str:
    """The most telling of a log's last lines: the last that mentions an error, else the last one."""
    with suppress(OSError):
        lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()[-40:]]
        written = [line for line in lines if line] or ["its log is empty"]
        errors = [line for line in written if re.search(_ERROR, line)]
        return errors[-1] if errors else written[-1]
    return "it wrote no log"


def free_port(preferred: int) -> int:
    """A free port: the preferred one if possible, else (and for 0) any."""
    if preferred and is_free(preferred):
        return preferred
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_listening(port: int) -> bool:
    """Whether a process accepts connections on a port of the loopback interface."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def is_free(port: int) -> bool:
    """Whether a port of the loopback interface is free."""
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
        # PR_SET_PDEATHSIG: a runner that is killed cannot stop its services, so the kernel must.
        set_option(1, signal.SIGTERM)
        if os.getppid() != parent:
            # The parent died before the kernel was asked.
            os.kill(os.getpid(), signal.SIGKILL)

    return ask
