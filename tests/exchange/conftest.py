"""What the tests of the registry and of the buyer's door share: an empty exchange and a real server."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from wares import Door


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An exchange with nothing in it."""
    monkeypatch.setenv("EXCHANGE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("EXCHANGE_DATABASE_URL", raising=False)
    return tmp_path / "home"


@pytest.fixture
def door(home: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Door]:
    """A real server on a port of this machine, with everything it logs kept."""
    from jobs.share.server import configuration, create_app

    caplog.set_level(logging.DEBUG)
    server = uvicorn.Server(configuration(create_app(), "127.0.0.1", 0))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        assert thread.is_alive() and time.monotonic() < deadline, "the server did not start"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield Door(f"http://127.0.0.1:{port}", home.parent)
    server.should_exit = True
    thread.join(timeout=20)
    assert not thread.is_alive()
