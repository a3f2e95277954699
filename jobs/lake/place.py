"""Says where each table lies, and how engine and log reader reach it."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

from jobs.settings import settings

_PLAIN_PATH = re.compile(r"[A-Za-z0-9/._-]+")


def location(table: str) -> Path:
    """The folder of a table, such as ``silver.ecb_reference_rates``."""
    layer, name = table.split(".", 1)
    return settings().lake / layer / name


def relative(table: str) -> str:
    """The table's folder as manifests name it, relative to what holds tables and landed bytes."""
    return "/".join(("lake", *table.split(".", 1)))


def from_path(table: str) -> str:
    """What SQL calls a table that is not attached."""
    return f"delta.`{address(location(table))}`"


def address(folder: Path) -> str:
    """A folder's path in characters that Sail 0.7 leaves as they are.

    It takes a location for an address: of a blank, an accent or a bracket it makes an escape, and then writes into
    another folder than the one it reads from. Such a folder is reached through a descriptor instead.
    """
    root = settings().store
    if settings().is_remote or not is_embedded() or _PLAIN_PATH.fullmatch(str(root)):
        return str(folder)
    root.mkdir(parents=True, exist_ok=True)
    return f"/proc/self/fd/{_descriptor(root)}/{folder.relative_to(root)}"


@cache
def _descriptor(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY)


def is_embedded() -> bool:
    """Whether the engine runs within this process."""
    return settings().spark == "embedded"


def storage_options() -> dict[str, str] | None:
    """How delta-rs reaches an object store; keys it takes from the usual variables of AWS by itself."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if not settings().is_remote or not endpoint:
        return None
    return {"AWS_ENDPOINT_URL": endpoint, "AWS_ALLOW_HTTP": str(endpoint.startswith("http://")).lower()}
