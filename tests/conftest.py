"""Lets two processes share the tests: those of one file stay together, and so do all that need the one cluster."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say which tests share what is dear to start."""
    for item in items:
        folder = item.path.parent.name
        item.add_marker(pytest.mark.xdist_group(folder if folder == "cluster" else str(item.path)))


def pytest_make_parametrize_id(val: object) -> str | None:
    """Give a test one name in all processes: packed bytes hold the second in which they were packed."""
    return "bytes" if isinstance(val, bytes) else None
