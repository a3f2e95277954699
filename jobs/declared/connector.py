"""The ``connector:`` block of a source: how its bytes arrive, checked before anything is fetched."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

# Formats that run code when they are opened; no connector hands them on.
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


Globs = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_globs)]


class PackageConnector(BaseModel):
    """Files inside a wheel of a package index; an older version is an older vintage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["package"] = "package"
    package: str = Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$", max_length=100)
    version: str = Field(default="latest", pattern=r"^(latest|[0-9][A-Za-z0-9.!+_-]*)$", max_length=60)
    files: Globs = Field(description="paths or globs of members of the wheel")


class DropConnector(BaseModel):
    """Files that a person or partner puts into the source's watched folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["drop"] = "drop"
    files: Globs = Field(description="globs of file names in the folder")


Connector = Annotated[PackageConnector | DropConnector, Field(discriminator="type")]
