"""Ties a registry to the home and the lake that it records, so that a lost, emptied or swapped database is noticed.

The registry holds an identity, made when it was created; the home remembers it for each lake. A registry without any
record is a new exchange's only where nothing has landed, been built or been released yet.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from jobs.durable import write_durably
from jobs.errors import ExchangeError
from jobs.settings import settings

_FILE = "registry.id"
_LAYERS = ("bronze", "silver", "gold", "quarantine")
_bringing_back: ContextVar[bool] = ContextVar("a registry is being filled beside its lake", default=False)


@contextmanager
def bringing_back() -> Iterator[None]:
    """Let an empty registry be opened beside a lake, to fill it from a backup, another registry or the lake itself."""
    before = _bringing_back.set(True)
    try:
        yield
    finally:
        _bringing_back.reset(before)


def holdings() -> str | None:
    """Something that an exchange has made in this home or this lake; None if there is nothing."""
    here = settings()
    for release in _folders(here.releases, 2):
        return f"the release {release.parent.name}@{release.name}"
    for layer in _LAYERS:
        for table in _folders(here.lake / layer, 1):
            if (table / "_delta_log").is_dir():
                return f"the table {layer}.{table.name}"
    # Landed files alone, in a home that has known no registry, are what a first run left that was killed.
    for day in _folders(here.landing, 2) if remembered() else ():
        return f"what landed of '{day.parent.name}'"
    return None


def require_unused(where: str) -> None:
    """Refuse an empty registry beside what it should have recorded.

    Args:
        where: the registry's address.

    Raises:
        ExchangeError: there are releases, tables or landed files.
    """
    if _bringing_back.get():
        return
    existing = holdings()
    if existing:
        raise ExchangeError(
            f"the registry is empty, but {existing} is there",
            where=where,
            expected=f"the registry in which that was recorded, beside {settings().home}",
            next_step="point EXCHANGE_DATABASE_URL at it, or bring it back: exchange registry restore, or without a"
            " backup: exchange registry rebuild. A new exchange needs a new EXCHANGE_HOME and EXCHANGE_LAKE",
        )


def require_same(identity: str, where: str, *, is_new: bool) -> None:
    """Refuse a registry that is not the one which this home knows, and remember the first.

    Args:
        identity: the registry's.
        where: the registry's address.
        is_new: the registry has just been created, so the home remembers it.

    Raises:
        ExchangeError: the home knows another registry for this lake.
    """
    known = remembered()
    if known == identity:
        return
    if known is not None and not is_new and not _bringing_back.get():
        raise ExchangeError(
            "this is the registry of another exchange",
            where=where,
            expected=f"the registry {known} (from {settings().home / _FILE}), found {identity}",
            next_step="point EXCHANGE_DATABASE_URL or EXCHANGE_HOME at the right one, or bring the registry back:"
            f" exchange registry restore. If this is the right one, remove {settings().home / _FILE}",
        )
    if not _bringing_back.get():
        remember(identity)


def remembered() -> str | None:
    """The identity of the registry that this home knows for this lake; None if it knows none."""
    identity = _known().get(settings().lake_root)
    return identity if isinstance(identity, str) else None


def remember(identity: str) -> None:
    """Note which registry records this lake; on a disk that is read-only nothing is noted."""
    known = _known() | {settings().lake_root: identity}
    with suppress(OSError):
        write_durably(settings().home / _FILE, json.dumps(known, sort_keys=True, indent=1).encode() + b"\n")


def _known() -> dict[str, object]:
    try:
        known = json.loads((settings().home / _FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _folders(root: Path, depth: int) -> Iterator[Path]:
    """The folders some levels below a root; none if it is missing, or in a store that cannot be reached now."""
    try:
        found = sorted((entry for entry in root.iterdir() if entry.is_dir()), key=str)
    except Exception as error:
        # A store that cannot be reached fails in the store's own ways; the next step that uses it says how.
        if isinstance(error, FileNotFoundError | NotADirectoryError) or settings().is_remote:
            return
        raise
    for folder in found:
        if not folder.name.startswith("."):
            yield from (folder,) if depth == 1 else _folders(folder, depth - 1)
