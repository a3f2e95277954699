"""Turns signals into an orderly shutdown that further signals do not interrupt."""

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
    """Make a closed terminal and a plain kill end the block as Ctrl-C does; ignored signals stay ignored (nohup)."""

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        # make forwards a signal that the terminal has sent already: the second must not disturb the shutdown.
        for number in handled:
            signal.signal(number, _ignore)
        raise KeyboardInterrupt

    handled = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in handled}
    try:
        yield
    finally:
        # After a signal the process is about to end, and further signals must not change how.
        _restore({number: handler for number, handler in before.items() if signal.getsignal(number) is interrupt})


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore signals during the block, so that a second Ctrl-C cannot leave half of the services running."""
    with _handlers(dict.fromkeys(_SIGNALS, _ignore)):
        yield


def block_signals() -> None:
    """Keep signals from changing how this process ends: while it shuts down, Python restores their deadly defaults."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Do nothing; unlike SIG_IGN, Python does not complain if a signal arrives while this handler is being set."""


@contextmanager
def _handlers(handlers: Mapping[signal.Signals, _Handler]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        _restore(before)


def _restore(before: Mapping[signal.Signals, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)
