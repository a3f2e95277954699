"""The client's messages about an Airflow that responds late, not at all, or only in part."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from jobs.airflow import client
from jobs.airflow.client import Client
from jobs.errors import ExchangeError

EMPTY = b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n{"dags": [], "total_entries": 0}'
WHOLE, CUT = EMPTY % 32, EMPTY % 64


@contextmanager
def answering(reply: bytes, seconds: float) -> Iterator[Client]:
    """Run a server that sends one response after some seconds and closes; yields a client of it."""
    ended = threading.Event()

    def answer(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(65_536)
            ended.wait(seconds)
            connection.sendall(reply)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=answer, args=(listening,))
        thread.start()
        try:
            yield Client(f"http://127.0.0.1:{listening.getsockname()[1]}", "admin", "secret")
        finally:
            ended.set()
            thread.join()


def test_a_late_response_is_accepted() -> None:
    with answering(WHOLE, 1.0) as airflow:
        assert airflow.dags() == {}


def test_a_timeout_names_the_request_and_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_SECONDS", 0.2)
    with answering(WHOLE, 60.0) as airflow, pytest.raises(ExchangeError) as caught:
        airflow.dags()
    assert "Airflow did not respond to GET /api/v2/dags" in str(caught.value)
    assert "timed out" in str(caught.value)
    assert caught.value.next_step == "read airflow/logs/services/api-server.log in EXCHANGE_HOME, then start again"


def test_a_truncated_response_is_an_exchange_error() -> None:
    with answering(CUT, 0.0) as airflow, pytest.raises(ExchangeError, match=r"did not respond to GET .*expected 64"):
        airflow.dags()
    with answering(CUT, 0.0) as airflow:
        assert not airflow.is_up()


def test_an_error_response_is_shown_with_its_body() -> None:
    message = r"answered 403 to GET /api/v2/dags\?limit=.*: not with this token"
    refusing = b"HTTP/1.1 403 Forbidden\r\n\r\nnot with this token"
    with answering(refusing, 0.0) as airflow, pytest.raises(ExchangeError, match=message):
        airflow.dags()


def test_requests_to_loopback_ignore_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with answering(WHOLE, 0.0) as airflow:
        assert airflow.dags() == {}


def test_a_refused_connection_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with pytest.raises(ExchangeError, match="refused"):
        Client(f"http://127.0.0.1:{port}", "admin", "secret").dags()
