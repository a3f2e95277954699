"""Counts requests that no buyer answers for, so that a stranger costs a few rows a minute, not one per request."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime

from jobs.exchange.usage import Refusal
from jobs.share.errors import ShareError, too_many

# A minute has at most this many rows; what does not fit is counted under one address.
ROWS_PER_MINUTE = 20
OTHERS = "other addresses"

# A buyer's refused requests are evidence and have rows of their own, but no endless number of them.
ROWS_PER_GRANT = 60

_MINUTE = 60
_MOST_ADDRESSES = 10_000


@dataclass(frozen=True)
class _Kind:
    address: str
    operation: str
    status: int
    reason: str


class Refusals:
    """Counts of the current minute and, until they are taken, of those before.

    Args:
        per_minute: refusals per address and minute after which the answer is 429.
    """

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._begin(self._now())
        self._ended: list[Refusal] = []

    def count(self, address: str, operation: str, error: ShareError) -> ShareError | None:
        """Count a refused request; returns what to answer instead if its address has had too many."""
        self._turn()
        self._counts[self._kind(address, operation, error)] += 1
        if error.status >= 500:
            return None
        who = address if address in self._of_address or len(self._of_address) < _MOST_ADDRESSES else OTHERS
        self._of_address[who] += 1
        if self._of_address[who] <= self._per_minute:
            return None
        seconds = max(1, round(self._minute + _MINUTE - time.time()))
        return too_many(
            f"more than {self._per_minute} requests without a valid token in a minute from this address", seconds
        )

    def may_have_row(self, grant: int) -> bool:
        """Whether one more refusal of this grant gets a row of its own this minute."""
        self._turn()
        self._of_grant[grant] += 1
        return self._of_grant[grant] <= ROWS_PER_GRANT

    def take_ended(self) -> list[Refusal]:
        """Return the counts of minutes that have ended, and forget them."""
        self._turn()
        ended, self._ended = self._ended, []
        return ended

    def take(self) -> list[Refusal]:
        """Return all counts, and forget them."""
        ended = self.take_ended() + self._sums()
        self._counts.clear()
        return ended

    def _kind(self, address: str, operation: str, error: ShareError) -> _Kind:
        kind = _Kind(address, operation, error.status, error.message[:500])
        if kind in self._counts or len(self._counts) < ROWS_PER_MINUTE:
            return kind
        return _Kind(OTHERS, operation, error.status, "several")

    def _turn(self) -> None:
        now = self._now()
        if now != self._minute:
            self._ended += self._sums()
            self._begin(now)

    def _begin(self, minute: int) -> None:
        self._minute = minute
        self._counts: Counter[_Kind] = Counter()
        self._of_address: Counter[str] = Counter()
        self._of_grant: Counter[int] = Counter()

    def _sums(self) -> list[Refusal]:
        first = datetime.fromtimestamp(self._minute, UTC)
        last = datetime.fromtimestamp(min(time.time(), self._minute + _MINUTE), UTC)
        return [
            Refusal(first, max(first, last), kind.address, kind.operation, kind.status, kind.reason, requests)
            for kind, requests in self._counts.items()
        ]

    @staticmethod
    def _now() -> int:
        return int(time.time()) // _MINUTE * _MINUTE
