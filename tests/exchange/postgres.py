"""Serves the tests of the registry a real PostgreSQL, started by the cluster's own code."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest
from sqlalchemy import URL, make_url

from jobs.operate.cluster import database
from jobs.operate.cluster.credentials import ServiceCredentials
from jobs.operate.processes import Mark, end_gently, free_port, last_words, launch

_PATIENCE_SECONDS = 60.0


@contextmanager
def served(folder: Path) -> Iterator[URL]:
    """The address of an empty database, whose server lives as long as the block.

    Args:
        folder: for all that the server writes.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXCHANGE_HOME", str(folder))
        (folder / "cluster").mkdir(parents=True)
        port, credentials, log = free_port(0), ServiceCredentials(), folder / "database.log"
        mark = Mark("EXCHANGE_TESTS_DATABASE", str(folder))
        with database.place() as place:
            database.make_database(place, credentials, log)
            command = database.database(place, port)
            server = launch(
                command.words, mark=mark, log=log, environment=command.environment, folder=Path("/"),
                ends_with_parent=True, user=place.user, keep_open=place.descriptors,
            )  # fmt: skip
        try:

            def check() -> None:
                assert server.poll() is None, f"PostgreSQL ended: {last_words(log)}"

            database.prepare_database(port, credentials, check, _PATIENCE_SECONDS)
            yield make_url(database.database_url(port, "exchange"))
        finally:
            # A fast shutdown: it does not wait for clients that are still connected.
            end_gently([psutil.Process(server.pid)], signal.SIGINT, 5.0)
            mark.end_all()


def new_schema(address: URL, name: str) -> str:
    """The SQLAlchemy address of a new, empty schema of a database."""
    plain = address.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(f"create schema {name}".encode())
    query = {**address.query, "options": f"-csearch_path={name}"}
    return address.set(query=query).render_as_string(hide_password=False)
