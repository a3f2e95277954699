"""The one place that reads the environment: where state and declarations are, and which engine runs."""

from __future__ import annotations

import ipaddress
import logging
import os
import re
import stat
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from jobs.errors import ExchangeError

# Retries an unavailable or refusing object store for half a minute, with growing pauses.
S3_PATIENCE: dict[str, Any] = {
    "retries": {"mode": "standard", "total_max_attempts": 9}, "connect_timeout": 5, "read_timeout": 60,
}  # fmt: skip

log = logging.getLogger("exchange")

CHECKOUT = Path(__file__).resolve().parent.parent


def _own_place() -> Path:
    """The checkout; of an installed package the working folder, because nothing may be kept among the libraries."""
    return CHECKOUT if (CHECKOUT / "pyproject.toml").is_file() else Path.cwd()


class Settings(BaseSettings):
    """Settings of one process, each read from the variable ``EXCHANGE_<NAME>``."""

    model_config = SettingsConfigDict(env_prefix="EXCHANGE_", frozen=True, extra="ignore")

    home: Path = Field(
        default_factory=lambda: _own_place() / ".exchange", description="all state: lake, registry, keys, Airflow"
    )
    catalogue: Path = Field(
        default_factory=lambda: _own_place(), description="the folder that holds dags/ and expectations/"
    )
    lake_root: str = Field(
        default="",
        validation_alias="EXCHANGE_LAKE",
        description="where tables and landed bytes are: a folder, or s3://bucket/prefix; home if empty",
    )
    spark: str = Field(default="embedded", description="embedded, or the address of a Spark Connect server")
    database_url: str = Field(default="", description="SQLAlchemy address of the registry; SQLite under home if empty")
    airflow_database_url: str = Field(
        default="", description="SQLAlchemy address of Airflow's own records; SQLite under home if empty"
    )
    share_host: str = Field(default="127.0.0.1", description="address the sharing server binds to")
    share_port: int = Field(default=8765, description="port the sharing server binds to")
    share_url: str = Field(
        default="",
        description="address under which buyers reach the sharing server, if it is behind a proxy: https://…/delta-sharing",
    )
    share_proxies: str = Field(
        default="", description="addresses or networks of trusted proxies, which say who the client is, with commas"
    )
    share_connections: int = Field(default=4096, ge=2, description="connections that the sharing server holds")
    share_connections_per_address: int = Field(
        default=2048, ge=1, description="connections of one address that the sharing server holds"
    )
    share_refusals_per_minute: int = Field(
        default=300, ge=1, description="requests without a valid token that an address may make before it gets 429"
    )
    share_header_seconds: float = Field(default=10, gt=0, description="seconds that a request's headers may take")
    share_body_seconds: float = Field(default=30, gt=0, description="seconds that a request's body may take")
    share_idle_seconds: int = Field(default=15, ge=1, description="seconds that a connection stays open unused")
    share_stall_seconds: float = Field(
        default=60, gt=0, description="seconds after which a client that reads nothing is cut off"
    )
    jars: Path | None = Field(default=None, description="folder of Spark's further jars; under home if unset")
    class_archive: bool = Field(
        default=False, description="whether `exchange cluster up` makes the file that speeds up Spark's later starts"
    )
    maven_url: str = Field(
        default="https://repo1.maven.org/maven2/", description="the Maven repository that the jars come from"
    )
    drop_quiet_seconds: float = Field(
        default=10.0, ge=0, le=3600, description="how long a file in a watched folder must not have changed to be taken"
    )
    keep_days: int = Field(default=7, ge=1, description="days for which upkeep keeps what was in use")
    keep_runs_days: int = Field(default=400, ge=30, description="days for which upkeep keeps records of runs")
    keep_usage_days: int = Field(
        default=400, ge=1, description="days for which upkeep keeps each request of a buyer, and then its day's sums"
    )
    issuer: str = Field(default="did:web:exchange.local", description="who signs certificates")

    @field_validator("home", "catalogue")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().resolve()

    @field_validator("lake_root")
    @classmethod
    def _known_store(cls, value: str) -> str:
        value = value.strip().rstrip("/")
        if "://" in value and not re.match(r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^/]+)*$", value):
            raise ValueError("neither a folder nor s3://bucket or s3://bucket/prefix")
        return value

    @field_validator("share_url")
    @classmethod
    def _buyers_address(cls, value: str) -> str:
        value = value.strip().rstrip("/")
        if not value:
            return ""
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or "@" in value:
            raise ValueError("not an address like https://share.example.com/delta-sharing")
        return value if value.endswith("/delta-sharing") else f"{value}/delta-sharing"

    @field_validator("share_proxies")
    @classmethod
    def _networks(cls, value: str) -> str:
        networks = [part.strip() for part in value.split(",") if part.strip()]
        for network in networks:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise ValueError(f"{error}; expected addresses or networks like 10.0.0.5,10.1.0.0/16") from None
        return ",".join(networks)

    @property
    def store(self) -> Path:
        """The root of tables and landed bytes: a folder, or a prefix in an object store with the interface of a path.

        Paths in the registry and in manifests are relative to it.
        """
        if not self.lake_root:
            return self.home
        if self.is_remote:
            return _remote(self.lake_root, s3_endpoint())
        return Path(self.lake_root).expanduser().resolve()

    @property
    def is_remote(self) -> bool:
        """Whether tables and landed bytes are in an object store."""
        return "://" in self.lake_root

    @property
    def landing(self) -> Path:
        """Bytes as received."""
        return self.store / "landing"

    @property
    def lake(self) -> Path:
        """Delta tables, one folder per layer."""
        return self.store / "lake"

    @property
    def drop(self) -> Path:
        """Watched folders, one per source with the connector ``drop``."""
        return self.home / "drop"

    @property
    def evidence(self) -> Path:
        """Expectation results, each kept under its own sha256."""
        return self.home / "evidence"

    @property
    def releases(self) -> Path:
        """Manifests and certificates of releases."""
        return self.home / "releases"

    @property
    def keys(self) -> Path:
        """The exchange's signing key and its public half."""
        return self.home / "keys"

    @property
    def backups(self) -> Path:
        """Copies of the registry."""
        return self.home / "backups"

    @property
    def locks(self) -> Path:
        """One lock file per source, product or runner."""
        return self.home / "locks"

    @property
    def cluster(self) -> Path:
        """State of a cluster on this machine: object store, database, Spark."""
        return self.home / "cluster"

    @property
    def registry_url(self) -> str:
        """SQLAlchemy address of the registry."""
        return self.database_url or f"sqlite:///{self.home / 'registry.db'}"

    @property
    def airflow_url(self) -> str:
        """SQLAlchemy address of Airflow's own records."""
        return self.airflow_database_url or f"sqlite:///{self.home / 'airflow' / 'airflow.db'}"


def settings() -> Settings:
    """Read the settings from the environment as it is now.

    Raises:
        ExchangeError: a variable has an invalid value.
    """
    return _settings(tuple(map(os.environ.get, _VARIABLES)))


def private_home() -> Path:
    """The home, for its owner only: created if it is missing, and closed to others if an earlier version left it open.

    Raises:
        ExchangeError: it cannot be created.
    """
    home = settings().home
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = home.stat()
        # A folder that others use too, as /tmp, is no home of an exchange alone.
        is_ours = found.st_uid == os.geteuid() and not found.st_mode & stat.S_ISVTX
        is_ours = is_ours and os.access(home, os.W_OK)
        if found.st_mode & 0o077 and is_ours and any((home / name).exists() for name in ("registry.db", "keys")):
            home.chmod(0o700)
            log.warning("note: other users could read %s; now only its owner can (mode 0700)", home)
    except OSError as error:
        raise ExchangeError(
            f"the exchange's home cannot be created: {error.strerror}",
            where=str(home),
            next_step="check EXCHANGE_HOME and its permissions",
        ) from error
    return home


def s3_endpoint(variables: Mapping[str, str] = os.environ) -> str:
    """URL of the object store in the usual AWS variables; empty for AWS itself."""
    return variables.get("AWS_ENDPOINT_URL_S3") or variables.get("AWS_ENDPOINT_URL") or ""


@lru_cache(maxsize=16)
def _remote(address: str, endpoint: str) -> Path:
    from upath import UPath

    # Other processes write there too, so a cached listing is stale. The cast holds for all uses of paths here.
    path = UPath(address, use_listings_cache=False, endpoint_url=endpoint or None, config_kwargs=S3_PATIENCE)
    return cast("Path", path)


# Reading and validating the settings takes a millisecond, and a step asks for them a hundred times.
@lru_cache(maxsize=16)
def _settings(_values: tuple[str | None, ...]) -> Settings:
    try:
        return Settings()
    except ValidationError as error:
        mistake = error.errors()[0]
        name = str(mistake["loc"][0])
        raise ExchangeError(
            mistake["msg"].removeprefix("Value error, "),
            where=name if name.startswith("EXCHANGE_") else f"EXCHANGE_{name.upper()}",
            next_step="correct the variable, or unset it",
        ) from None


_VARIABLES = tuple(
    str(field.validation_alias or f"EXCHANGE_{name.upper()}") for name, field in Settings.model_fields.items()
)
