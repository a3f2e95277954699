"""Lets a signal end what is being done in good order, and nothing disturb it while it ends."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

_Handler = signal.Handlers | Callable[[int, FrameType | None], None]
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let a closed terminal and a plain kill end the block as Ctrl-C does; what was to be ignored still is (nohup)."""

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        # make passes on what the terminal has sent already: a second one must not disturb the stopping.
        for number in heard:
            signal.signal(number, _unheard)
        raise KeyboardInterrupt

    heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in heard}
    try:
        yield
    finally:
        # After a signal the process is about to end, and what arrives meanwhile must not change how it does.
        _restore({number: handler for number, handler in before.items() if signal.getsignal(number) is interrupt})


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let no second Ctrl-C leave half of the services behind."""
    with _handlers(dict.fromkeys(_SIGNALS, _unheard)):
        yield


def _unheard(_number: int, _frame: FrameType | None) -> None:
    """Do nothing; Python complains of a signal that arrives while it is being set to be ignored."""


@contextmanager
def _handlers(wanted: Mapping[signal.Signals, _Handler]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    try:
        yield
    finally:
        _restore(before)


def _restore(before: Mapping[signal.Signals, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)
