"""Opens the registry's database: one engine per address and process, migrated before its first use."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, func, make_url, select, text
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    NoSuchModuleError,
    OperationalError,
    ProgrammingError,
)
from sqlalchemy.orm import Session

from jobs.errors import ExchangeError
from jobs.registry import identity, read_only
from jobs.registry.database_errors import BUSY_SECONDS, REGISTRY, Records, damaged, database_error, shown
from jobs.settings import private_home, settings

# The newest revision under migrations/versions, written here so that a database at head is recognised
# by one select, without importing Alembic. A test holds the two together.
HEAD = "0008"
_FIRST_WITH_IDENTITY = "0004"

# SQLite looks through 1 MB in about 5 ms. A larger file is looked through by upkeep and by the doctor only.
_LOOKED_THROUGH_BYTES = 4 << 20

# Registries in several schemas of one PostgreSQL are migrated by themselves.
_WAIT_FOR_MIGRATION = text(
    "SELECT pg_advisory_xact_lock(hashtextextended(current_schema() || ' is being migrated', 0))"
)


_engines: dict[tuple[str, int], Engine] = {}
_guard = threading.Lock()
_writing: ContextVar[bool] = ContextVar("writing the registry", default=False)


def engine(url: str | None = None) -> Engine:
    """Return this process's engine for the registry, its schema at head.

    Args:
        url: SQLAlchemy address; the registry of the settings if absent.

    Raises:
        ExchangeError: the address cannot be used, its database cannot be reached, is damaged or is newer, or it is not
            the registry of this home: see `jobs.registry.identity`.
    """
    address = url or settings().registry_url
    key = (address, os.getpid())
    opened_engine = _engines.get(key)
    if opened_engine is not None:
        return opened_engine
    with _guard:
        opened_engine = _engines.get(key)
        if opened_engine is None:
            opened_engine = open_engine(address)
            if address == settings().registry_url:
                _open_own(opened_engine)
            else:
                _to_head(opened_engine)
            _engines[key] = opened_engine
    return opened_engine


@contextmanager
def transaction(patience: float = BUSY_SECONDS) -> Iterator[Session]:
    """Give a session for reading and writing; it is committed at the end, or rolled back if the block raises.

    On SQLite the transaction takes the write lock when it begins, so it never fails half-way because another process
    wrote in between. Objects stay readable after the end. Keep it short: writers wait for each other. A transaction
    cannot begin within another, because it would wait for itself.

    Args:
        patience: seconds to wait for another writer.

    Raises:
        Locked: another writer kept the lock for longer.
        ExchangeError: the database cannot be reached or written.
    """
    if _writing.get():
        raise RuntimeError("a transaction of the registry was begun within another; pass the session on instead")
    begun = _writing.set(True)
    try:
        with _session(engine(), patience, "IMMEDIATE") as session:
            yield session
    finally:
        _writing.reset(begun)


@contextmanager
def reading(patience: float = BUSY_SECONDS) -> Iterator[Session]:
    """Give a session that only reads, from one consistent state, without waiting for writers.

    Args:
        patience: seconds to wait for whoever locked the whole database.

    Raises:
        Locked: the database stayed locked for longer.
        ExchangeError: the database cannot be reached.
    """
    with _session(engine(), patience, "DEFERRED") as session:
        yield session
        # Objects that leave the session first stay usable, and a change made by mistake is not written.
        session.expunge_all()


@contextmanager
def own_connection() -> Iterator[Connection]:
    """Give a connection that is never shared or reused and ends with the block; each statement is a transaction.

    Raises:
        ExchangeError: the database cannot be reached.
    """
    bind = engine()
    try:
        opened = bind.connect().execution_options(isolation_level="AUTOCOMMIT")
    except DBAPIError as error:
        raise database_error(error, bind.url) from error
    try:
        yield opened
    finally:
        opened.invalidate()
        opened.close()


@contextmanager
def _session(bind: Engine, patience: float, begin: str) -> Iterator[Session]:
    options = bind.execution_options(exchange_begin=begin, exchange_patience=patience)
    try:
        with Session(options, expire_on_commit=False) as session, session.begin():
            yield session
    except (IntegrityError, DataError, ProgrammingError):
        # Not a failure of the database; the caller who wrote the statement knows what it means.
        raise
    except DBAPIError as error:
        raise database_error(error, bind.url, patience=patience) from error


def opened(address: str, records: Records, **options: Any) -> Engine:
    """Make an engine, which connects to its database at first use.

    Args:
        address: SQLAlchemy address.
        records: what is kept there.
        options: of SQLAlchemy's engine.

    Raises:
        ExchangeError: the address cannot be used.
    """
    try:
        return create_engine(make_url(address), hide_parameters=True, **options)
    except (ArgumentError, NoSuchModuleError, ImportError, ValueError) as error:
        # The message leaves the address out: it may hold a password.
        raise records.refusal(f"the address of {records.name} cannot be used ({type(error).__name__})") from error


def open_engine(address: str) -> Engine:
    """Make an engine for a registry, with the transactions that it needs; its schema is left as it is."""
    kind, _, place = address.partition("://")
    is_sqlite = kind.startswith("sqlite")
    if is_sqlite and place.strip("/") in ("", ":memory:"):
        raise REGISTRY.refusal("a registry in memory would be lost when the process ends")
    # The sharing server answers in up to 40 threads, each of which needs a connection for a few milliseconds. It would
    # open one anew, for as long as a request takes, whenever more are in use than the pool keeps.
    registry = opened(address, REGISTRY, pool_pre_ping=not is_sqlite, pool_size=20, max_overflow=25)
    if is_sqlite:
        _listen(registry)
    else:
        event.listen(registry, "begin", _limit_lock_waits)
    return registry


def _limit_lock_waits(connection: Connection) -> None:
    patience = connection.get_execution_options().get("exchange_patience", BUSY_SECONDS)
    if patience != BUSY_SECONDS and connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {round(patience * 1000)}")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExchangeError(
            f"the registry's folder cannot be created: {error.strerror}",
            where=str(folder),
            next_step="check EXCHANGE_HOME and its permissions",
        ) from error


def _listen(registry: Engine) -> None:
    @event.listens_for(registry, "do_connect")
    def _open(_dialect: object, _record: object, places: list[Any], options: dict[str, Any]) -> Any:
        file = Path(str(places[0]))
        return read_only.connect(file, **options) if read_only.is_read_only(file) else None

    @event.listens_for(registry, "connect")
    def _pragmas(connection: sqlite3.Connection, _record: object) -> None:
        # The driver would begin transactions itself, late and DEFERRED; _begin below does it instead.
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(registry, "begin")
    def _begin(connection: Connection) -> None:
        # A DEFERRED transaction that reads first and writes later fails immediately with "database is locked" if
        # another wrote in between, whatever the timeout. IMMEDIATE waits at the beginning instead.
        options = connection.get_execution_options()
        connection.exec_driver_sql(
            f"PRAGMA busy_timeout = {round(options.get('exchange_patience', BUSY_SECONDS) * 1000)}"
        )
        connection.exec_driver_sql(f"BEGIN {options.get('exchange_begin', 'IMMEDIATE')}")


def _before_fork() -> None:
    # SQLite's locks belong to the process: a child that inherits an open connection believes that it holds locks that
    # only its parent has, even for connections it opens itself. So idle connections are closed before a fork.
    for (_, pid), opened_engine in list(_engines.items()):
        if pid == os.getpid():
            opened_engine.dispose()


def _after_fork_in_child() -> None:
    # Another thread of the parent may have held the lock at the fork; in the child, no thread would release it.
    global _guard
    _guard = threading.Lock()


os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)


def revision(bind: Engine) -> str | None:
    """The schema revision of a database; None if it has none yet."""
    try:
        with bind.execution_options(exchange_begin="DEFERRED").connect() as connection:
            return connection.execute(text("select version_num from alembic_version")).scalar()
    except (OperationalError, ProgrammingError) as error:
        if _is_missing_table(error):
            return None
        raise


def describe_database() -> str:
    """The registry's database in one line: its kind, the server's version, the schema's revision and the address.

    Raises:
        ExchangeError: the database cannot be reached.
    """
    bind = engine()
    with bind.connect() as connection:
        version = ".".join(str(part) for part in connection.dialect.server_version_info or ())
    return f"{bind.dialect.name} {version}, schema {revision(bind)}, at {shown(bind.url)}"


def clock_skew() -> float:
    """Seconds by which the database server's clock is ahead of this machine's; 0 for a file, which has none."""
    bind = engine()
    if bind.dialect.name == "sqlite":
        return 0.0
    with bind.connect() as connection:
        theirs: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
    return (theirs.astimezone(UTC) - datetime.now(UTC)).total_seconds()


def migrate(bind: Engine, target: str = "head") -> None:
    """Bring a database to a revision: ``head`` or a later one upgrades, ``base`` or an earlier one downgrades.

    Two processes never migrate together, on one machine or on several: the second waits until the first is done.
    """
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    with _migration_lock(bind), bind.connect() as connection:
        config.attributes["connection"] = connection
        if target == "base" or (target != "head" and target < (revision(bind) or "")):
            command.downgrade(config, target)
        else:
            command.upgrade(config, target)


def close() -> None:
    """Close this process's connections and forget its engines, as before the database's file is replaced."""
    with _guard:
        for opened_engine in _engines.values():
            opened_engine.dispose()
        _engines.clear()


def _open_own(bind: Engine) -> None:
    """Bring this home's registry to head, and make sure that it is this home's."""
    private_home()
    is_new = is_blank(bind)
    if is_new:
        try:
            identity.require_unused(shown(bind.url))
        except ExchangeError:
            # Another process may just have created it, and begun to work.
            if is_blank(bind):
                raise
            is_new = False
    elif bind.dialect.name == "sqlite" and Path(bind.url.database or "").stat().st_size <= _LOOKED_THROUGH_BYTES:
        require_sound(bind)
    # A registry of an earlier version gets its identity now.
    is_new = is_new or not _has_identity(bind)
    _to_head(bind)
    with bind.execution_options(exchange_begin="DEFERRED").connect() as connection:
        own = connection.execute(text("select id from identity")).scalar_one()
    identity.require_same(own, shown(bind.url), is_new=is_new)


def _has_identity(bind: Engine) -> bool:
    try:
        return (revision(bind) or "") >= _FIRST_WITH_IDENTITY
    except DBAPIError as error:
        raise database_error(error, bind.url) from error


def is_blank(bind: Engine) -> bool:
    """Whether a database has no table yet; the file of a SQLite database may be missing."""
    try:
        if bind.dialect.name == "sqlite":
            file = Path(bind.url.database or "")
            return not file.exists() or file.stat().st_size == 0
        return revision(bind) is None
    except DBAPIError as error:
        raise database_error(error, bind.url) from error


def require_sound(bind: Engine, *, thoroughly: bool = False) -> None:
    """Refuse a SQLite file whose pages do not fit together; PostgreSQL looks after its own.

    Args:
        bind: the database.
        thoroughly: compare indexes with their tables, too.

    Raises:
        ExchangeError: it is damaged.
    """
    if bind.dialect.name != "sqlite":
        return
    pragma = "integrity_check" if thoroughly else "quick_check"
    try:
        with closing(bind.raw_connection()) as connection:
            answer = connection.cursor().execute(f"PRAGMA {pragma}(1)").fetchone()
    except (DBAPIError, sqlite3.Error) as error:
        raise database_error(error, bind.url) from error
    if answer is None or answer[0] != "ok":
        lines = str(answer[0] if answer else "no answer").splitlines()
        raise damaged(lines[-1], bind.url)


def _to_head(bind: Engine) -> None:
    try:
        may_write = not (bind.dialect.name == "sqlite" and read_only.is_read_only(Path(bind.url.database or "")))
        if bind.dialect.name == "sqlite" and may_write:
            _write_ahead(bind)
        at = revision(bind)
        if at == HEAD:
            return
        if at is not None and at > HEAD:
            raise ExchangeError(
                f"the registry is at revision {at}, which is newer than this program supports",
                where=shown(bind.url),
                expected=f"revision {HEAD} or older",
                next_step="run the newer version of the program",
            )
        if not may_write:
            raise ExchangeError(
                f"the registry is at revision {at or 'none'}, and this user cannot bring it to this program's",
                where=shown(bind.url),
                expected=f"revision {HEAD}, or a home that this user can write",
                next_step="run any command once as the home's owner, or read it with the version that wrote it",
            )
        migrate(bind)
    except (DBAPIError, sqlite3.Error) as error:
        raise database_error(error, bind.url) from error


def _write_ahead(bind: Engine) -> None:
    # The mode is a property of the file. To change it SQLite needs exclusive access and does not wait for that as it
    # waits for a lock, so processes that find an empty database at the same moment take turns.
    with _migration_lock(bind), closing(bind.raw_connection()) as connection:
        connection.cursor().execute("PRAGMA journal_mode = WAL")


@contextmanager
def _migration_lock(bind: Engine) -> Iterator[None]:
    if bind.dialect.name != "sqlite":
        with bind.begin() as held:
            held.execute(_WAIT_FOR_MIGRATION)
            yield
        return
    folder = Path(bind.url.database or "").parent
    _make_folder(folder)
    with (folder / ".registry-migration.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_missing_table(error: DBAPIError) -> bool:
    # SQLite has no error code of its own for a missing table; PostgreSQL's is 42P01.
    return "no such table" in str(error.orig) or getattr(error.orig, "sqlstate", None) == "42P01"
