"""The one place that reads the environment: where state is kept, where declarations are, which engine runs."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

CHECKOUT = Path(__file__).resolve().parent.parent


class Settings(BaseSettings):
    """Settings of one process, each read from the variable ``EXCHANGE_<NAME>``."""

    model_config = SettingsConfigDict(env_prefix="EXCHANGE_", frozen=True, extra="ignore")

    home: Path = Field(default=CHECKOUT / ".exchange", description="all state: lake, registry, keys, Airflow")
    catalogue: Path = Field(default=CHECKOUT, description="the folder that holds dags/ and expectations/")
    spark: str = Field(default="embedded", description="embedded, or the address of a Spark Connect server")
    database_url: str = Field(default="", description="SQLAlchemy address of the registry; SQLite under home if empty")
    share_host: str = Field(default="127.0.0.1", description="address the sharing server binds to")
    share_port: int = Field(default=8765, description="port the sharing server binds to")
    jars: Path | None = Field(default=None, description="folder of Spark's further jars; under home if unset")
    maven_url: str = Field(
        default="https://repo1.maven.org/maven2/", description="the Maven repository that the jars come from"
    )
    issuer: str = Field(default="did:web:exchange.local", description="who signs certificates")

    @field_validator("home", "catalogue")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().resolve()

    @property
    def landing(self) -> Path:
        """Bytes as received."""
        return self.home / "landing"

    @property
    def lake(self) -> Path:
        """Delta tables, one folder per layer."""
        return self.home / "lake"

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


def settings() -> Settings:
    """Read the settings from the environment as it is now."""
    return _settings(tuple(map(os.environ.get, _VARIABLES)))


# To read and check them takes a millisecond, and they are asked for a hundred times a step.
@lru_cache(maxsize=16)
def _settings(_values: tuple[str | None, ...]) -> Settings:
    return Settings()


_VARIABLES = tuple(f"EXCHANGE_{name.upper()}" for name in Settings.model_fields)
