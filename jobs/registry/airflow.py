"""Says where Airflow keeps its own records: in a file under its home, or in the database of the settings."""

from __future__ import annotations

from sqlalchemy import URL, Engine, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from jobs.registry.database import opened, revision
from jobs.registry.database_errors import Records, database_error
from jobs.settings import settings

# One driver for synchronous and asynchronous connections; by default Airflow uses another package for the latter.
_DRIVER = "postgresql+psycopg"
_RECORDS = Records(
    "Airflow's database", "EXCHANGE_AIRFLOW_DATABASE_URL",
    f"a database of its own, for example {_DRIVER}://airflow@host/airflow?passfile=/path",
)  # fmt: skip


def variables() -> dict[str, str]:
    """Environment variables that point Airflow at its records; not a file, as an address may hold a password."""
    environment = {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": settings().airflow_url}
    if settings().airflow_database_url:
        environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC"] = settings().airflow_url
    return environment


def state() -> str | None:
    """The records' schema revision and address; None where there is no schema yet.

    Raises:
        ExchangeError: the address cannot be used, or its database cannot be reached.
    """
    here = settings()
    if not here.airflow_database_url and not (here.home / "airflow" / "airflow.db").exists():
        return None
    bind = _bind(here.airflow_url)
    try:
        schema = revision(bind)
    except DBAPIError as error:
        raise database_error(error, bind.url, _RECORDS) from error
    return f"{schema} at {bind.url.render_as_string(hide_password=True)}" if schema else None


def _bind(address: str) -> Engine:
    bind = opened(address, _RECORDS, poolclass=NullPool)
    if settings().airflow_database_url:
        if bind.url.drivername != _DRIVER:
            raise _RECORDS.refusal(f"Airflow cannot use the driver {bind.url.drivername} here")
        if _place(bind.url) == _place(make_url(settings().registry_url)):
            raise _RECORDS.refusal("Airflow's records and the registry need separate databases")
    return bind


def _place(url: URL) -> tuple[object, ...]:
    return (url.host, url.port, url.database, url.query.get("options"))
