"""Keeps copies of the registry, and brings one back. Whatever the database, a copy is one SQLite file."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from sqlalchemy import Engine, create_engine, delete, func, insert, make_url, select
from sqlalchemy.exc import DBAPIError

from jobs import durable
from jobs.errors import ExchangeError, NotFound, disk_full
from jobs.registry import identity
from jobs.registry.database import (
    HEAD,
    close,
    engine,
    is_blank,
    migrate,
    open_engine,
    require_sound,
    revision,
)
from jobs.registry.database_errors import database_error
from jobs.registry.models import Identity
from jobs.registry.transfer import copy_records, copy_tables, records_in_the_way, tables_to_copy
from jobs.settings import private_home, settings

# A fortnight of nightly copies.
KEPT = 14
_NAME = re.compile(r"registry-\d{8}T\d{12}\.db")


@dataclass(frozen=True)
class Restored:
    """What came back: from which copy, how many records, and where the database before it was moved, if it was."""

    file: Path
    records: int
    set_aside: Path | None


def backups() -> list[Path]:
    """The copies that upkeep keeps, the newest first."""
    folder = settings().backups
    files = (file for file in folder.iterdir() if _NAME.fullmatch(file.name)) if folder.is_dir() else ()
    return sorted(files, reverse=True)


def backup(file: Path | None = None) -> Path:
    """Copy the registry as it is at one instant, while others read and write it.

    Args:
        file: the copy to write, which must not exist; under the home's ``backups/`` if None, where the newest 14 stay.

    Returns:
        The copy: complete, on the disk, and readable by its owner only.

    Raises:
        ExchangeError: the registry is damaged or cannot be read, the disk is full, or the file exists.
    """
    target = file.expanduser().resolve() if file else _next_name()
    if target.exists():
        raise ExchangeError(
            "the file exists", where=str(target), expected="a new file", next_step="choose another name, or remove it"
        )
    source = engine()
    require_sound(source)
    draft = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft.unlink(missing_ok=True)
        draft.touch(mode=0o600)
        _copy(source, draft)
        durable.sync(draft)
        draft.replace(target)
        durable.sync(target.parent)
    except OSError as error:
        raise disk_full(error, target) from error
    except (DBAPIError, sqlite3.Error) as error:
        raise database_error(error, source.url) from error
    finally:
        draft.unlink(missing_ok=True)
    if file is None:
        for old in [kept for kept in backups() if kept != target][KEPT - 1 :]:
            old.unlink(missing_ok=True)
    return target


def restore(file: Path | None = None) -> Restored:
    """Bring back a copy as the registry of this home; nothing may be running meanwhile.

    A registry in SQLite is moved aside first, whatever its state. One in PostgreSQL must be empty.

    Args:
        file: the copy; the newest that upkeep kept if None.

    Raises:
        NotFound: there is no such copy.
        ExchangeError: it is damaged or another exchange's, or the database in PostgreSQL has records of its own.
    """
    chosen = _existing(file)
    own = _identity_of(chosen)
    known = identity.remembered()
    if known is not None and known != own:
        raise ExchangeError(
            "this is a copy of another exchange's registry", where=str(chosen),
            expected=f"a copy of the registry {known} (from {settings().home}), found {own}",
            next_step="choose another copy, or point EXCHANGE_HOME at the exchange that it belongs to",
        )  # fmt: skip
    private_home()
    set_aside = None
    with identity.bringing_back():
        if settings().registry_url.startswith("sqlite"):
            set_aside, records = _replace_file(chosen)
        else:
            records = _fill(chosen, own)
    identity.remember(own)
    close()
    return Restored(chosen, records, set_aside)


def records() -> int:
    """How many rows the registry has.

    Raises:
        ExchangeError: it cannot be read.
    """
    bind = engine()
    require_sound(bind)
    with bind.connect() as connection:
        return sum(
            connection.execute(select(func.count()).select_from(table)).scalar_one() for table in tables_to_copy()
        )


def start_anew() -> Path | None:
    """Begin an empty registry with a new identity, for the caller to fill; the caller is within `bringing_back`.

    Returns:
        Where the registry before was moved, if it was in SQLite.

    Raises:
        ExchangeError: the database in PostgreSQL has records.
    """
    private_home()
    close()
    set_aside = None
    if settings().registry_url.startswith("sqlite"):
        set_aside = _set_aside(_file_of(settings().registry_url))
    else:
        _require_empty(engine())
    remember_registry()
    return set_aside


def remember_registry() -> None:
    """Have the home remember its registry as it is now."""
    with engine().connect() as connection:
        identity.remember(connection.execute(select(Identity.id)).scalar_one())


def _next_name() -> Path:
    return settings().backups / f"registry-{datetime.now(UTC):%Y%m%dT%H%M%S%f}.db"


def _copy(source: Engine, draft: Path) -> None:
    if source.dialect.name == "sqlite":
        with closing(source.raw_connection()) as reader, closing(sqlite3.connect(draft)) as copy:
            cast("sqlite3.Connection", reader.driver_connection).backup(copy)
            # One file: a copy in write-ahead mode would need two more beside it.
            copy.execute("PRAGMA journal_mode = DELETE")
        return
    target = open_engine(f"sqlite:///{draft}")
    try:
        migrate(target)
        options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        with source.connect().execution_options(**options) as here, target.begin() as there:
            copy_tables(here, there, tables_to_copy())
            there.execute(delete(Identity))
            there.execute(insert(Identity), [{"id": here.execute(select(Identity.id)).scalar_one()}])
    finally:
        target.dispose()
        (draft.parent / ".registry-migration.lock").unlink(missing_ok=True)


def _existing(file: Path | None) -> Path:
    if file is not None:
        if file.expanduser().is_file():
            return file.expanduser().resolve()
        raise NotFound("there is no such file", where=str(file), expected="a copy that `exchange registry backup` made")
    kept = backups()
    if not kept:
        raise NotFound(
            "no copy of the registry was kept", where=str(settings().backups),
            expected="a copy that upkeep or `exchange registry backup` made",
            next_step="name another file, or rebuild the registry from the lake: exchange registry rebuild",
        )  # fmt: skip
    return kept[0]


def _identity_of(file: Path) -> str:
    """The identity in a copy, which is looked through."""
    copy = create_engine(f"sqlite:///{file}")
    try:
        require_sound(copy, thoroughly=True)
        at = revision(copy)
        if at is None or at > HEAD:
            raise ExchangeError(
                f"the copy is at revision {at}", where=str(file), expected=f"a registry at revision {HEAD} or older",
                next_step="choose another copy, or run the version of the program that made it",
            )  # fmt: skip
        with copy.connect() as connection:
            return connection.execute(select(Identity.id)).scalar_one()
    except DBAPIError as error:
        raise database_error(error, copy.url) from error
    finally:
        copy.dispose()


def _replace_file(copy: Path) -> tuple[Path | None, int]:
    file = _file_of(settings().registry_url)
    close()
    try:
        data = copy.read_bytes()
        set_aside = _set_aside(file)
        file.parent.mkdir(parents=True, exist_ok=True)
        durable.write_durably(file, data)
    except OSError as error:
        raise disk_full(error, file) from error
    return set_aside, records()


def _set_aside(file: Path) -> Path | None:
    """Move a SQLite database aside, with the journals that belong to it; None if there is none or it is empty."""
    aside = file.with_name(f"{file.name}.replaced-{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
    parts = [(file.with_name(file.name + end), aside.with_name(aside.name + end)) for end in ("-wal", "-shm", "")]
    existed = file.exists() and file.stat().st_size > 0
    for part, place in parts:
        if part.exists():
            part.rename(place)
    return aside if existed else None


def _fill(copy: Path, own: str) -> int:
    bind = engine()
    _require_empty(bind, copy)
    records = copy_records(copy)
    with bind.begin() as connection:
        connection.execute(delete(Identity))
        connection.execute(insert(Identity), [{"id": own}])
    return records


def _require_empty(bind: Engine, copy: Path | None = None) -> None:
    if is_blank(bind):
        return
    conflict = records_in_the_way(copy)
    if conflict:
        raise ExchangeError(
            f"the registry has {conflict.rows} {conflict.table}", where="EXCHANGE_DATABASE_URL",
            expected="a database without records of an exchange",
            next_step="create an empty database, and point EXCHANGE_DATABASE_URL at it; this one stays as it is",
        )  # fmt: skip


def _file_of(address: str) -> Path:
    return Path(make_url(address).database or "")
