"""Airflow's own records: in a file under its home, or in the database that the settings name."""

from __future__ import annotations

from sqlalchemy import URL, Engine, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from jobs.registry.database import Records, database_error, opened, revision
from jobs.settings import settings

# The driver that Airflow would choose by itself for its asynchronous half is another package.
_BOTH_WAYS = "postgresql+psycopg"
_RECORDS = Records(
    "Airflow's database", "EXCHANGE_AIRFLOW_DATABASE_URL",
    f"a database of its own, such as {_BOTH_WAYS}://airflow@host/airflow?passfile=/path",
)  # fmt: skip


def variables() -> dict[str, str]:
    """By what Airflow's processes find them: in the environment, as an address may carry a password."""
    found = {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": settings().airflow_url}
    if settings().airflow_database_url:
        found["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC"] = settings().airflow_url
    return found


def state() -> str | None:
    """The revision of their schema, with where they are; None where there is no schema yet.

    Raises:
        ExchangeError: the address cannot be used, or its database cannot be reached.
    """
    known = settings()
    if not known.airflow_database_url and not (known.home / "airflow" / "airflow.db").exists():
        return None
    bind = _bind(known.airflow_url)
    try:
        found = revision(bind)
    except DBAPIError as error:
        raise database_error(error, bind.url, _RECORDS) from error
    return f"{found} at {bind.url.render_as_string(hide_password=True)}" if found else None


def _bind(address: str) -> Engine:
    bind = opened(address, _RECORDS, poolclass=NullPool)
    if settings().airflow_database_url:
        if bind.url.drivername != _BOTH_WAYS:
            raise _RECORDS.refusal(f"Airflow cannot work by {bind.url.drivername} here")
        if _place(bind.url) == _place(make_url(settings().registry_url)):
            raise _RECORDS.refusal("Airflow's records and the registry cannot be in one database")
    return bind


def _place(url: URL) -> tuple[object, ...]:
    return (url.host, url.port, url.database, url.query.get("options"))
