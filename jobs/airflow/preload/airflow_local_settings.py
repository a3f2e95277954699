"""Airflow imports this when a service starts: it sets up SQLite, and in the scheduler pays the tasks' imports once.

Only imports: an engine started here would not survive the fork of a task.
"""

from __future__ import annotations

import gc
import importlib
import os
import warnings
from typing import Any

from sqlalchemy import Engine, event

# Modules that every task needs and that take seconds to import.
_TASK_MODULES = (
    "jobs.airflow.dags", "jobs.declared.sql", "sqlglot.dialects.spark", "jobs.flow", "jobs.registry.models",
    "pyarrow.csv", "deltalake", "pyspark.sql.connect.session", "jobs.check.expectations",
)  # fmt: skip
_OF_EMBEDDED = ("pysail.spark",)
_OF_REMOTE_LAKE = ("boto3", "s3fs", "upath")


@event.listens_for(Engine, "connect")
def _let_readers_and_writers_meet(connection: Any, _record: object) -> None:
    # Several services share the file. Without a write-ahead log each waits up to five seconds for the others.
    if "sqlite" not in type(connection).__module__:
        return
    cursor = connection.cursor()
    for setting in ("journal_mode = WAL", "synchronous = NORMAL", "busy_timeout = 30000"):
        cursor.execute(f"PRAGMA {setting}")
    cursor.close()


def _by_settings() -> tuple[str, ...]:
    from jobs.settings import settings

    here = settings()
    drivers = ("psycopg",) if here.database_url.startswith("postgresql+psycopg:") else ()
    embedded = _OF_EMBEDDED if here.spark == "embedded" else ()
    return (*embedded, *(_OF_REMOTE_LAKE if here.is_remote else ()), *drivers)


def _import_for_tasks() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in (*_TASK_MODULES, *_by_settings()):
            importlib.import_module(module)
    # Objects made by the imports stay for good: collecting around them would only copy their pages in every task.
    gc.freeze()


# Starting makes a million objects that stay: looking through them for garbage took an eighth of the time.
gc.set_threshold(100_000, 50, 100)

if os.environ.get("EXCHANGE_PRELOAD") == "1":
    _import_for_tasks()
