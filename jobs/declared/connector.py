"""The ``connector:`` block of a source: how its bytes arrive, checked before anything is fetched.

To add a connector, write its model here, list it in `CONNECTORS`, and write ``jobs/land/connectors/<type>.py`` with
``fetch``. A package outside the exchange adds one as `jobs.extensions` describes.
"""
from __future__ import annotations

import unicodedata
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, SerializeAsAny, model_validator

from jobs.declared.block import Block, by_type, choose
from jobs.settings import settings

GROUP = "exchange.connectors"

# Formats that run code when they are opened; no connector fetches them.
EXECUTABLE_SUFFIXES = frozenset({".pkl", ".pickle", ".joblib", ".dill", ".cloudpickle", ".npy", ".npz", ".pt", ".pth"})


def _globs(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        path = PurePosixPath(value)
        if not value.strip() or path.is_absolute() or ".." in path.parts or "\\" in value:
            raise ValueError(f"{value!r} must be a relative path or glob with / between folders, without ..")
        if is_executable(value):
            raise ValueError(f"{value!r} is a pickle: opening one runs code, so none is ever fetched")
    return values


def is_executable(name: str) -> bool:
    """Tell whether a file of this name may run code when opened (pickles and what contains them)."""
    return any(suffix.lower() in EXECUTABLE_SUFFIXES for suffix in PurePosixPath(name).suffixes)


def matches(name: str, glob: str) -> bool:
    """Tell whether a path with / between folders matches a glob of ``files:``.

    ``*`` matches within one name and ``**`` any number of folders. Upper and lower case are the same, because partners'
    programs write extensions in either, and so are the two ways in which Unicode writes an accented letter.
    """
    parts = [unicodedata.normalize("NFC", text).casefold().split("/") for text in (name, glob)]
    return _parts_match(*parts)


def _parts_match(names: list[str], globs: list[str]) -> bool:
    if not globs:
        return not names
    if globs[0] == "**":
        return any(_parts_match(names[skipped:], globs[1:]) for skipped in range(len(names) + 1))
    return bool(names) and fnmatchcase(names[0], globs[0]) and _parts_match(names[1:], globs[1:])


Globs = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_globs)]


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Digests = Annotated[tuple[Sha256, ...], BeforeValidator(_several)]


class Connector(Block):
    """What all connectors share: their type."""

    def place(self, source: str) -> str | None:  # noqa: ARG002 - for connectors that look in a place of the source's
        """Where it looks for files, for messages; None where the declaration says it."""
        return None


class PackageConnector(Connector):
    """Files inside a wheel of a package index; an older version is an older vintage."""

    type: Literal["package"] = "package"
    package: str = Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$", max_length=100)
    version: str = Field(default="latest", pattern=r"^(latest|[0-9][A-Za-z0-9.!+_-]*)$", max_length=60)
    sha256: Digests = Field(default=(), description="of the wheel, one for each platform's; another is refused")
    files: Globs = Field(description="paths or globs of members of the wheel; ** crosses folders")

    @model_validator(mode="after")
    def _pins_a_version(self) -> Self:
        if self.sha256 and self.version == "latest":
            raise ValueError("sha256 is the content of one version; say which in `version:`, or leave sha256 out")
        return self


class DropConnector(Connector):
    """Files that a person or partner puts into the source's watched folder."""

    type: Literal["drop"] = "drop"
    files: Globs = Field(description="paths or globs of files in the folder; ** crosses folders")

    def place(self, source: str) -> str:
        """The watched folder."""
        return str(settings().drop / source)


CONNECTORS: dict[str, type[Connector]] = by_type(PackageConnector, DropConnector)


def _choose(value: Any) -> Connector:
    return choose(value, CONNECTORS, GROUP, Connector)


# Any connector in YAML. Serialized with all fields of its own model, not only with those that all share.
AnyConnector = Annotated[SerializeAsAny[Connector], PlainValidator(_choose)]
