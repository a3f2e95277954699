"""Asks the registry what several requests need at the same moment in one transaction, each after it came.

One connection takes its locks and reads its pages once for all of them; one for each of forty threads took most of the
server's time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from anyio.to_thread import run_sync

from jobs.registry import reading
from jobs.share.access import PATIENCE_SECONDS
from jobs.share.errors import ShareError

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

T = TypeVar("T")
_Question = Callable[["Session"], Any]

# While a batch is being answered, later requests wait for the next: not for too many.
_MOST = 64


class Questions:
    """The questions of a server's requests, answered by one thread from one task of its loop."""

    def __init__(self) -> None:
        self._waiting: list[tuple[_Question, asyncio.Future[Any]]] = []
        self._answering: asyncio.Task[None] | None = None
        self._thread = anyio.CapacityLimiter(1)

    async def ask(self, question: Callable[[Session], T]) -> T:
        """Answer a question from the registry as it is now.

        Raises:
            ShareError: the answer is a refusal.
            ExchangeError: the registry cannot be read.
        """
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, answer))
        if self._answering is None or self._answering.done():
            self._answering = asyncio.create_task(self._answer())
        return await answer

    async def _answer(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
            try:
                answers = await run_sync(_read, [question for question, _ in batch], limiter=self._thread)
            except Exception as error:
                # Those behind have waited as long for the same registry.
                batch, self._waiting = batch + self._waiting, []
                answers = [error] * len(batch)
            for (_, future), answer in zip(batch, answers, strict=True):
                if future.done():
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)


def _read(questions: list[_Question]) -> list[Any]:
    with reading(PATIENCE_SECONDS) as session:
        return [_try(question, session) for question in questions]


def _try(question: _Question, session: Session) -> Any:
    try:
        return question(session)
    except ShareError as error:
        return error
