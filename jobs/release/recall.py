"""Recalls a release, so that it serves no one, and lifts a recall; both are kept, with who, when and why."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from jobs.durable import write_durably
from jobs.errors import ExchangeError, disk_full
from jobs.registry.models import Recall, Release
from jobs.registry.releases import set_recalled
from jobs.release import archive

MAX_REASON = 512


@dataclass(frozen=True)
class Event:
    """That a release was recalled, or (`recalled` is False) that its recall was lifted."""

    recalled: bool
    by: str
    at: datetime
    reason: str


def recall(release: Release, *, reason: str, by: str, lift: bool = False) -> Event:
    """Recall a release, or lift its recall; the next request of a buyer is answered accordingly.

    The event is also stored beside the release's folder, where it survives the loss of the registry.

    Args:
        release: the release.
        reason: why, for staff and buyers.
        by: who decided it.
        lift: end a recall instead.

    Raises:
        ExchangeError: there is no reason, nothing to change, or the disk cannot be written.
    """
    name = f"{release.product}@{release.number}"
    if not reason.strip() or len(reason) > MAX_REASON:
        raise ExchangeError("a recall needs a reason", expected=f"--reason with 1 to {MAX_REASON} characters")
    if (release.status == "recalled") != lift:
        raise ExchangeError(
            f"{name} is not recalled" if lift else f"{name} is recalled already",
            next_step=f"exchange releases {release.product} shows the state of each release",
        )
    event = Event(not lift, by, datetime.now(UTC), reason.strip())
    file = archive.events_file(release.product, release.number)
    stored = json.dumps([_document(e) for e in (*events(release.product, release.number), event)], indent=1)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_durably(file, stored.encode() + b"\n")
    except OSError as error:
        raise disk_full(error, file) from error
    set_recalled(release.id, _row(event))
    return event


def replay(release: Release) -> bool:
    """Bring the registry's record of a release up to what is stored beside its folder; whether it changed."""
    stored = events(release.product, release.number)
    if not stored or (release.status == "recalled") == stored[-1].recalled:
        return False
    return set_recalled(release.id, _row(stored[-1]))


def events(product: str, number: str) -> list[Event]:
    """What is stored beside a release's folder, the oldest first.

    Raises:
        ExchangeError: the file was changed by hand, and cannot be read.
    """
    file = archive.events_file(product, number)
    try:
        documents = json.loads(file.read_bytes())
        return [Event(bool(d["recalled"]), d["by"], datetime.fromisoformat(d["at"]), d["reason"]) for d in documents]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        raise ExchangeError(
            "the record of recalls cannot be read", where=str(file), expected="JSON as `exchange recall` writes it",
            next_step="restore the file from a backup",
        ) from error  # fmt: skip


def _document(event: Event) -> dict[str, Any]:
    return {"recalled": event.recalled, "by": event.by, "at": event.at.isoformat(), "reason": event.reason}


def _row(event: Event) -> Recall:
    return Recall(recalled=event.recalled, by=event.by, at=event.at, reason=event.reason)
