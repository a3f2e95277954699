"""Says where each table is, and how the engine and the log reader reach it."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

from jobs.errors import ExchangeError
from jobs.settings import s3_endpoint, settings

# Name of the folder of a log within its table's.
LOG = "_delta_log"
# As patient as the store's other clients; by default delta-rs gives up after three seconds.
_PATIENCE = {
    "backoff_config.init_backoff": "500ms",
    "backoff_config.max_backoff": "8s",
    "max_retries": "10",
    "retry_timeout": "90s",
}
_PLAIN_PATH = re.compile(r"[A-Za-z0-9/._-]+")
_PATTERN = re.compile(r"[\[\]{}*?`\\]")


def location(table: str) -> Path:
    """The folder of a table, for example ``silver.ecb_reference_rates``."""
    layer, name = table.split(".", 1)
    return settings().lake / layer / name


def log_folder(table: str) -> Path:
    """The folder of a table's log."""
    return location(table) / LOG


def relative(table: str) -> str:
    """The table's folder as manifests name it, relative to the folder of tables and landed bytes."""
    return "/".join(("lake", *table.split(".", 1)))


def from_path(table: str) -> str:
    """The name of a table in SQL if it is not attached."""
    return f"delta.`{address(location(table))}`"


def address(folder: Path) -> str:
    """A folder's path in characters that the engine leaves as they are.

    Sail 0.7 treats a location as a URL: it escapes a blank, an accent or a bracket, and then writes to another folder
    than the one it reads from. Such a folder is reached through a descriptor instead.

    Raises:
        ExchangeError: Spark would treat the path as a pattern, and read every folder that matches.
    """
    root = settings().store
    if settings().is_remote or _PLAIN_PATH.fullmatch(str(root)):
        return str(folder)
    if not is_embedded():
        return _require_no_pattern(folder)
    root.mkdir(parents=True, exist_ok=True)
    return f"/proc/self/fd/{_descriptor(root)}/{folder.relative_to(root)}"


def _require_no_pattern(folder: Path) -> str:
    character = _PATTERN.search(str(folder))
    if character is None:
        return str(folder)
    raise ExchangeError(
        f"Spark cannot read a folder with {character[0]} in its path",
        where=str(settings().store),
        expected="a path without any of [ ] { } * ? ` \\",
        next_step="move the exchange's home (EXCHANGE_HOME), or keep the lake in an object store (EXCHANGE_LAKE)",
    )


@cache
def _descriptor(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY)


def is_embedded() -> bool:
    """Whether the engine runs within this process."""
    return settings().spark == "embedded"


def storage_options() -> dict[str, str] | None:
    """How delta-rs reaches an object store; it takes the keys from the usual AWS variables itself."""
    endpoint = s3_endpoint()
    if not settings().is_remote:
        return None
    if not endpoint:
        return _PATIENCE
    return _PATIENCE | {"AWS_ENDPOINT_URL": endpoint, "AWS_ALLOW_HTTP": str(endpoint.startswith("http://")).lower()}
