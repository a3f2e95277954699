"""The cluster's keys, passwords and tokens: made once, readable by their owner only, never words of a command."""

from __future__ import annotations

import secrets
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from jobs.errors import ExchangeError
from jobs.operate.processes import write_private
from jobs.settings import settings


def _made() -> str:
    return secrets.token_urlsafe(32)


class Credentials(BaseModel):
    """All of them; a field that is missing in the file is made."""

    model_config = ConfigDict(frozen=True)

    access_key: str = Field(default_factory=lambda: f"EX{secrets.token_hex(9).upper()}")
    secret_key: str = Field(default_factory=_made)
    store: str = Field(default_factory=_made, description="with which the parts of the object store sign requests")
    database: dict[str, str] = Field(
        default_factory=lambda: {"postgres": _made(), "exchange": _made(), "airflow": _made()},
        description="password of each role",
    )
    token: str = Field(default_factory=_made, description="by which the Connect server knows its clients")


def credentials_file() -> Path:
    """Where they are kept."""
    return settings().cluster / "secrets.json"


def spark_secret_file() -> Path:
    """Where the secret is by which master, workers and Connect server know each other; on every host the same."""
    return settings().cluster / "spark.secret"


def make_spark_secret() -> str:
    """Read it, making it at first use."""
    file = spark_secret_file()
    if not file.exists():
        write_private(file, _made() + "\n")
    return read_spark_secret(file)


def read_spark_secret(file: Path) -> str:
    """Read it from a file.

    Raises:
        ExchangeError: there is none.
    """
    try:
        found = file.read_text(encoding="utf-8").strip()
    except OSError:
        found = ""
    if found:
        return found
    raise ExchangeError(
        "the secret of the cluster is not there",
        where=str(file),
        expected="the file that `exchange cluster master` made on its host",
        next_step=f"copy {spark_secret_file().name} from there to here, or name its copy by --secret-file",
    )


def load_credentials() -> Credentials:
    """Read them, making them at first use."""
    file = credentials_file()
    known = Credentials.model_validate_json(file.read_text(encoding="utf-8")) if file.exists() else Credentials()
    write_private(file, known.model_dump_json(indent=1) + "\n")
    return known
