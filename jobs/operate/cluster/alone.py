"""Runs one part of Spark in the foreground, for a cluster of several machines; the part replaces this process."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from jobs.errors import ExchangeError
from jobs.operate.cluster import engine as engines
from jobs.operate.cluster.credentials import load_credentials, make_spark_secret, read_spark_secret, spark_secret_file
from jobs.operate.cluster.state import make_folder
from jobs.settings import s3_endpoint, settings

# The variable that Spark's own clients read.
_TOKEN = "SPARK_CONNECT_AUTHENTICATE_TOKEN"  # noqa: S105 - the name of a variable


def run_master(address: str, port: int, page_port: int, secret_file: Path | None) -> NoReturn:
    """Become a master. Without a secret file, it generates the new cluster's secret, which workers need a copy of.

    Raises:
        ExchangeError: there is no Java, or no secret in the file.
    """
    make_folder()
    secret = read_spark_secret(secret_file) if secret_file else make_spark_secret()
    _become(engines.master(_host("master", address, secret), port, page_port))


def run_worker(
    master: str, address: str, port: int, memory: str, cores: int | None, secret_file: Path | None
) -> NoReturn:
    """Become a worker.

    Raises:
        ExchangeError: there is no Java or no secret, `master` is not an address, or it could not reach this worker.
    """
    make_folder()
    _require_reachable(master, address)
    host = _host("worker", address, read_spark_secret(secret_file or spark_secret_file()))
    _become(engines.worker(host, port, cores or os.cpu_count() or 1, memory, master, store_of(os.environ)))


def run_connect(
    master: str, address: str, listen: str, port: int, memory: str, cores: int, secret_file: Path | None
) -> NoReturn:
    """Become the Connect server.

    Raises:
        ExchangeError: as `run_worker`; or the jars cannot be fetched.
    """
    make_folder()
    _require_reachable(master, address)
    host = _host("connect", address, read_spark_secret(secret_file or spark_secret_file()))
    token = os.environ.get(_TOKEN) or load_credentials().token
    store = store_of(os.environ)
    _become(engines.connect(host, engines.Engine(master, listen, port, memory, cores, store, token)))


def store_of(variables: Mapping[str, str]) -> engines.Store:
    """The object store that the usual AWS variables name; AWS itself, by the machine's own role, if none is set."""
    return engines.Store(
        endpoint=s3_endpoint(variables),
        region=variables.get("AWS_REGION") or variables.get("AWS_DEFAULT_REGION") or "us-east-1",
        access_key=variables.get("AWS_ACCESS_KEY_ID") or "",
        secret_key=variables.get("AWS_SECRET_ACCESS_KEY") or "",
        session_token=variables.get("AWS_SESSION_TOKEN") or "",
    )


def _host(part: str, address: str, secret: str) -> engines.Host:
    return engines.Host(address, settings().cluster / "alone" / part, secret)


def _require_reachable(master: str, address: str) -> None:
    match = re.fullmatch(r"spark://(\[[^\]]+\]|[^:/\s]+):\d+", master)
    if match is None:
        raise ExchangeError(f"'{master}' is not a master's address", where="--master", expected="spark://host:port")
    if engines.is_loopback(address) and not engines.is_loopback(match[1].strip("[]")):
        raise ExchangeError(
            f"the master at {master} could not reach this part at {address}",
            where="--host",
            expected="an address of this machine that the other parts can reach",
            next_step="pass it as --host",
        )


def _become(command: engines.Command) -> NoReturn:
    variables = dict(os.environ) | command.environment
    os.execve(command.words[0], command.words, variables)  # noqa: S606 - a program of our own, without a shell
