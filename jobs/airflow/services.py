"""Starts a real Airflow (scheduler, DAG processor, API server) on the loopback interface and ends all of it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from jobs.airflow.configuration import Pace, write_configuration
from jobs.airflow.credentials import AirflowCredentials, load_credentials
from jobs.errors import ExchangeError
from jobs.operate.processes import Mark, free_port, last_words, launch, open_log
from jobs.registry import airflow as database
from jobs.settings import CHECKOUT, settings

# Carried by every process of an Airflow of ours, whatever group or parent it ends up with.
MARK = "EXCHANGE_SERVICES_OF"

_PRELOAD = Path(__file__).parent / "preload"
_COMMANDS = {
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "api-server": ("api-server",),
}
# Current versions send no telemetry by themselves; this keeps later ones from starting to.
_SILENT = {
    "GX_ANALYTICS_ENABLED": "false", "SCARF_ANALYTICS": "false", "SCARF_NO_ANALYTICS": "true", "DO_NOT_TRACK": "1",
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "false",
}  # fmt: skip
# All state is in databases that survive a kill at any instant: there is little to be graceful about.
_STOP_SECONDS = 1.0


@dataclass
class Services:
    """The services of one EXCHANGE_HOME: `begin` starts Airflow's, `start` one more, `stop` ends them all."""

    address: str = ""
    credentials: AirflowCredentials = field(init=False)
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        """Where Airflow keeps its state."""
        return settings().home / "airflow"

    @property
    def logs(self) -> Path:
        """Folder of the services' own logs."""
        return self.home / "logs" / "services"

    def begin(self, pace: Pace) -> None:
        """Clean up after a killed runner, then start Airflow's services; from the main thread only.

        Raises:
            ExchangeError: Airflow's database cannot be migrated.
        """
        end_leftovers()
        environment = self.prepare(pace)
        for name, command in _COMMANDS.items():
            extra = {"EXCHANGE_PRELOAD": "1"} if name == "scheduler" else {}
            self.start(name, [sys.executable, "-m", "airflow", *command], environment | extra)

    def prepare(self, pace: Pace) -> dict[str, str]:
        """Write Airflow's configuration and bring its database up to date.

        Returns:
            the variables that Airflow's processes need beside those of this process.

        Raises:
            ExchangeError: Airflow's database cannot be migrated.
        """
        self.home.mkdir(parents=True, exist_ok=True)
        self.home.chmod(0o700)
        self.logs.mkdir(parents=True, exist_ok=True)
        self.credentials = load_credentials(self.home)
        self.address = f"http://127.0.0.1:{free_port(pace.port)}"
        write_configuration(self.home, self.address, pace)
        environment = self._environment()
        self._migrate(environment)
        return environment

    def start(self, name: str, command: list[str], environment: Mapping[str, str]) -> None:
        """Start one more service; its output goes to a log file of its name.

        Args:
            environment: variables it gets beside, or instead of, those of this process.
        """
        self._running[name] = launch(
            command,
            mark=_mark(),
            log=self.logs / f"{name}.log",
            environment={**environment, **_SILENT},
            folder=CHECKOUT,
            ends_with_parent=True,
        )

    def check(self) -> None:
        """Raise ExchangeError if one of the services has ended."""
        for name, process in self._running.items():
            code = process.poll()
            if code is not None:
                raise ExchangeError(
                    f"the {name} ended by itself (exit code {code}): {last_words(self.logs / f'{name}.log')}",
                    where=str(self.logs / f"{name}.log"),
                    next_step="read that log, then start again",
                )

    def stop(self) -> None:
        """End every service and every process it started; those that do not end in time are killed."""
        for process in self._running.values():
            with suppress(ProcessLookupError):
                process.terminate()
        deadline = time.monotonic() + _STOP_SECONDS
        for process in self._running.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        end_leftovers()
        for process in self._running.values():
            process.wait()
        self._running.clear()

    def _environment(self) -> dict[str, str]:
        bin_folder = str(Path(sys.executable).parent)
        paths = [str(_PRELOAD), str(CHECKOUT), os.environ.get("PYTHONPATH", "")]
        loopback = "127.0.0.1,localhost"
        no_proxy = ",".join(filter(None, (os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), loopback)))
        return {
            "PATH": f"{bin_folder}{os.pathsep}{os.environ.get('PATH', '')}",
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "PYTHONWARNINGS": "ignore",
            "PYTHONUNBUFFERED": "1",
            "NO_PROXY": no_proxy,
            "no_proxy": no_proxy,
            "EXCHANGE_HOME": str(settings().home),
            "EXCHANGE_CATALOGUE": str(settings().catalogue),
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW_CONFIG": str(self.home / "airflow.cfg"),
            **database.variables(),
            "AIRFLOW__CORE__FERNET_KEY": self.credentials.fernet_key,
            "AIRFLOW__API_AUTH__JWT_SECRET": self.credentials.jwt_secret,
            "AIRFLOW__API__SECRET_KEY": self.credentials.session_key,
            # A process that renames itself would otherwise overwrite the environment by which it is found again.
            "SPT_NOENV": "1",
        }

    def _migrate(self, environment: dict[str, str]) -> None:
        done = self.home / "migrated"
        schema = database.state()
        if schema and done.exists() and done.read_text(encoding="utf-8") == _migrated(schema):
            return
        with open_log(self.logs / "migrate.log") as log:
            command = [sys.executable, "-m", "airflow", "db", "migrate"]
            ended = subprocess.run(  # noqa: S603 - our own interpreter and fixed arguments
                command,
                env=dict(os.environ) | environment | _SILENT,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=CHECKOUT,
                check=False,
            )
        if ended.returncode:
            raise ExchangeError(
                f"Airflow's database could not be migrated: {last_words(self.logs / 'migrate.log')}",
                where=str(self.home),
                next_step=f"read {self.logs / 'migrate.log'}",
            )
        done.write_text(_migrated(database.state()), encoding="utf-8")


def end_leftovers() -> None:
    """Kill every process that services of this EXCHANGE_HOME started and that still runs."""
    _mark().end_all()


def _mark() -> Mark:
    return Mark(MARK, str(settings().home))


def _migrated(state: str | None) -> str:
    """Identifies a database that this Airflow has migrated."""
    from importlib.metadata import version

    return f"Airflow {version('apache-airflow-core')}, schema {state}"
