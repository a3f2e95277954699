"""The cluster's keys, passwords and tokens: made once, readable by their owner only, never passed as arguments."""

from __future__ import annotations

import secrets
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from jobs.errors import ExchangeError
from jobs.operate.processes import write_private
from jobs.settings import settings


def _random() -> str:
    return secrets.token_urlsafe(32)


class ServiceCredentials(BaseModel):
    """The credentials of all services of a cluster; a field that the file lacks is generated."""

    model_config = ConfigDict(frozen=True)

    access_key: str = Field(default_factory=lambda: f"EX{secrets.token_hex(9).upper()}")
    secret_key: str = Field(default_factory=_random)
    store: str = Field(default_factory=_random, description="parts of the object store sign requests with it")
    database: dict[str, str] = Field(
        default_factory=lambda: {"postgres": _random(), "exchange": _random(), "airflow": _random()},
        description="password of each role",
    )
    token: str = Field(default_factory=_random, description="clients authenticate with it at the Connect server")


def credentials_file() -> Path:
    """The file of the credentials."""
    return settings().cluster / "secrets.json"


def spark_secret_file() -> Path:
    """File of the secret that master, workers and Connect server share; the same on every host."""
    return settings().cluster / "spark.secret"


def make_spark_secret() -> str:
    """Read the shared secret, making it at first use."""
    file = spark_secret_file()
    if not file.exists():
        write_private(file, _random() + "\n")
    return read_spark_secret(file)


def read_spark_secret(file: Path) -> str:
    """Read the shared secret from a file.

    Raises:
        ExchangeError: there is none.
    """
    try:
        secret = file.read_text(encoding="utf-8").strip()
    except OSError:
        secret = ""
    if secret:
        return secret
    raise ExchangeError(
        "the cluster's secret is missing",
        where=str(file),
        expected="the file that `exchange cluster master` made on its host",
        next_step=f"copy {spark_secret_file().name} from there to here, or pass its copy as --secret-file",
    )


def load_credentials() -> ServiceCredentials:
    """Read the credentials, making them at first use."""
    file = credentials_file()
    stored = file.read_text(encoding="utf-8") if file.exists() else "{}"
    credentials = ServiceCredentials.model_validate_json(stored)
    write_private(file, credentials.model_dump_json(indent=1) + "\n")
    return credentials
