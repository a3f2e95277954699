"""The cluster's keys, passwords and tokens: made once, readable by their owner only, never words of a command."""

from __future__ import annotations

import secrets
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from jobs.processes import write_private
from jobs.settings import settings


def _made() -> str:
    return secrets.token_urlsafe(32)


class Secrets(BaseModel):
    """All of them; a field that is missing in the file is made."""

    model_config = ConfigDict(frozen=True)

    access_key: str = Field(default_factory=lambda: f"EX{secrets.token_hex(9).upper()}")
    secret_key: str = Field(default_factory=_made)
    store: str = Field(default_factory=_made, description="with which the parts of the object store sign requests")
    database: dict[str, str] = Field(
        default_factory=lambda: {"postgres": _made(), "exchange": _made(), "airflow": _made()},
        description="password of each role",
    )
    spark: str = Field(default_factory=_made, description="by which master, workers and driver know each other")
    token: str = Field(default_factory=_made, description="by which the Connect server knows its clients")


def secrets_file() -> Path:
    """Where they are kept."""
    return settings().cluster / "secrets.json"


def load_secrets() -> Secrets:
    """Read them, making them at first use."""
    file = secrets_file()
    known = Secrets.model_validate_json(file.read_text(encoding="utf-8")) if file.exists() else Secrets()
    write_private(file, known.model_dump_json(indent=1) + "\n")
    return known
