"""Writes Airflow's configuration for one machine: loopback only, short intervals, no telemetry."""

from __future__ import annotations

import configparser
import os
from dataclasses import dataclass
from pathlib import Path

from jobs.airflow.credentials import USER, password_file
from jobs.operate.processes import write_private
from jobs.settings import CHECKOUT


@dataclass(frozen=True)
class Pace:
    """How quickly an Airflow reacts, and where it listens.

    Attributes:
        port: of its API server and pages if it is free; otherwise, and for 0, any free one.
        idle_seconds: how long the scheduler sleeps when idle, which is the longest that the next task waits.
        reread_seconds: how often the declarations are read again.
    """

    port: int
    idle_seconds: float
    reread_seconds: int


def write_configuration(home: Path, address: str, pace: Pace) -> None:
    """Write ``airflow.cfg`` in its home; secrets, among them the database's address, go into the environment."""
    # No interpolation: a percent sign in a path is a percent sign.
    config = configparser.RawConfigParser()
    config.read_dict(_sections(home, address, pace))
    lines: list[str] = ["# Written by every start of the exchange; changes made here are lost.\n"]
    for section in config.sections():
        lines.append(f"\n[{section}]\n")
        lines.extend(f"{key} = {value}\n" for key, value in config[section].items())
    write_private(home / "airflow.cfg", "".join(lines))


def _sections(home: Path, address: str, pace: Pace) -> dict[str, dict[str, object]]:
    tasks = max(3, os.cpu_count() or 1)
    return {
        "core": {
            "dags_folder": CHECKOUT / "dags",
            "plugins_folder": home / "plugins",
            "executor": "LocalExecutor",
            # The engine in each task uses all cores; more tasks at a time would only wait for each other.
            "default_pool_task_slot_count": tasks,
            # A worker notices up to a second late that its task has ended; the next task goes to another one.
            "parallelism": 2 * tasks + 2,
            "load_examples": False,
            "dags_are_paused_at_creation": False,
            # The message has file, line and field; a traceback would only show our own code.
            "dagbag_import_error_tracebacks": False,
            "min_serialized_dag_update_interval": 5,
            "auth_manager": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
            "simple_auth_manager_users": f"{USER}:admin",
            "simple_auth_manager_passwords_file": password_file(home),
            "execution_api_server_url": f"{address}/execution/",
        },
        "logging": {
            "base_log_folder": home / "logs",
            "dag_processor_child_process_log_directory": home / "logs" / "dag_processor",
            "colored_console_log": False,
        },
        "api": {"host": "127.0.0.1", "port": address.rsplit(":", 1)[1], "base_url": address, "workers": 1},
        "scheduler": {
            "scheduler_idle_sleep_time": pace.idle_seconds,
            # A task without a heartbeat was killed with its service, and is retried.
            "task_instance_heartbeat_timeout": 60,
            "scheduler_health_check_threshold": 30,
        },
        "dag_processor": {
            "parsing_processes": 2,
            "min_file_process_interval": pace.reread_seconds,
            "refresh_interval": pace.reread_seconds,
        },
        "workers": {"min_heartbeat_interval": 1, "missing_dag_retry_delay": 5},
    }
