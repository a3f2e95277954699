"""Says in one line what is wrong with a database that keeps records, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.engine import URL
from sqlalchemy.exc import InterfaceError, OperationalError

from jobs.errors import ExchangeError, Locked, Unavailable

# How long to wait for another writer, unless a caller has less patience.
BUSY_SECONDS = 30

# What SQLite says of a file that is cut, overwritten or not a database.
_DAMAGE = ("malformed", "not a database", "disk I/O error")


@dataclass(frozen=True)
class Records:
    """Records that are kept in a database of their own.

    Attributes:
        name: what they are.
        variable: the setting that says where they are.
        expected: an example of a valid address.
    """

    name: str
    variable: str
    expected: str

    def refusal(self, what: str) -> ExchangeError:
        """Return the error for an invalid setting."""
        return ExchangeError(
            what, where=self.variable, expected=self.expected,
            next_step="correct it, or unset it to use SQLite under EXCHANGE_HOME",
        )  # fmt: skip


REGISTRY = Records(
    "the registry", "EXCHANGE_DATABASE_URL",
    "an SQLAlchemy address like sqlite:////srv/exchange/registry.db, with its driver installed",
)  # fmt: skip


def shown(url: URL) -> str:
    """An address as it may be shown, without its password."""
    return url.render_as_string(hide_password=True)


def database_error(
    error: Exception, url: URL, records: Records = REGISTRY, *, patience: float = BUSY_SECONDS
) -> ExchangeError:
    """Translate an error of the database that keeps some records into one line."""
    # SQLAlchemy's text repeats the statement; the first line of the driver's says what is wrong.
    cause = (str(getattr(error, "orig", None) or error).strip() or type(error).__name__).splitlines()[0]
    # PostgreSQL's 55P03 is lock_not_available.
    locked = "database is locked" in cause or "database table is locked" in cause
    if locked or getattr(getattr(error, "orig", None), "sqlstate", None) == "55P03":
        return Locked(
            f"another process has been writing {records.name} for more than {patience:g} seconds",
            where=shown(url),
            next_step="wait for it to end, then run this again",
        )
    if "readonly database" in cause:
        return ExchangeError(
            f"{records.name} is read-only for this user",
            where=shown(url),
            expected="a home that this user can write, because this command records something there",
            next_step="run it as the home's owner, or in a copy of the home; lists, `sql` and `verify` work here",
        )
    if any(sign in cause for sign in _DAMAGE) and records is REGISTRY:
        return damaged(cause, url)
    # A server that is away for a moment comes back; a file that cannot be opened stays so.
    is_away = isinstance(error, OperationalError | InterfaceError) and url.get_backend_name() != "sqlite"
    return (Unavailable if is_away else ExchangeError)(
        f"{records.name} cannot be used: {cause}",
        where=shown(url),
        expected="a database that can be reached, read and written",
        next_step=f"check {records.variable}, the server, the disk and the permissions",
    )


def damaged(cause: str, url: URL) -> ExchangeError:
    """The error for a SQLite file that does not hold together."""
    return ExchangeError(
        f"the registry is damaged: {cause}",
        where=shown(url),
        expected="a whole SQLite database",
        next_step="stop what runs, then bring back the newest backup: exchange registry restore. Without one: exchange"
        " registry rebuild",
    )
