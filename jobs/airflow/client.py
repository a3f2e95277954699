"""Talks to Airflow's REST API: which DAGs are parsed, what runs, and how to start a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

import httpx

from jobs.errors import ExchangeError

_PAGE = 100
# A dead server refuses the connection immediately; a live one on a busy machine may need a minute for its disk.
_SECONDS = 180


@dataclass(frozen=True)
class DagState:
    """One DAG as Airflow reports it."""

    dag_id: str
    parsed_at: datetime | None
    is_paused: bool


@dataclass(frozen=True)
class DagRunState:
    """One run of a DAG; the state is queued, running, success or failed."""

    dag_id: str
    run_id: str
    state: str
    queued_at: datetime | None

    @property
    def is_active(self) -> bool:
        """Whether it has not ended yet."""
        return self.state in ("queued", "running")


class Client:
    """A logged-in user of one Airflow."""

    def __init__(self, address: str, user: str, password: str) -> None:
        self._address = address
        self._login = {"username": user, "password": password}
        self._http = httpx.Client(
            base_url=address,
            timeout=_SECONDS,
            # The loopback interface is never behind a proxy, whatever the environment says.
            trust_env=False,
            # The server closes idle connections between rounds; a request on one that is closing would fail.
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    def is_up(self) -> bool:
        """Whether the server answers and accepts the login."""
        try:
            token = self._send(self._http.build_request("POST", "/auth/token", json=self._login))["access_token"]
        except httpx.HTTPError:
            return False
        self._http.headers["Authorization"] = f"Bearer {token}"
        return True

    def prepare(self) -> None:
        """Let the server build the interface that tasks use, which takes seconds, before a first task waits for it."""
        self._request("GET", "/execution/health")

    def dags(self) -> dict[str, DagState]:
        """All DAGs that are in the DAG files now, by their ids."""
        return {
            dag["dag_id"]: DagState(dag["dag_id"], _instant(dag["last_parsed_time"]), dag["is_paused"])
            for dag in self._all("/api/v2/dags", "dags")
        }

    def import_errors(self) -> list[str]:
        """The text of each import error of the DAG files."""
        return [error["stack_trace"] for error in self._all("/api/v2/importErrors", "import_errors")]

    def runs(self, updated_since: datetime) -> list[DagRunState]:
        """Runs of all DAGs that changed since an instant, oldest first."""
        return self._runs({"updated_at_gte": updated_since.isoformat()})

    def active_runs(self) -> list[DagRunState]:
        """Runs of all DAGs that have not ended yet."""
        return self._runs({"state": ["queued", "running"]})

    def trigger(self, dag_id: str, run_id: str, logical_date: datetime, conf: dict[str, Any]) -> None:
        """Start a run of a DAG."""
        body = {"dag_run_id": run_id, "logical_date": logical_date.isoformat(), "conf": conf}
        self._request("POST", f"/api/v2/dags/{dag_id}/dagRuns", body)

    def give_up(self, run: DagRunState) -> None:
        """Mark a run that no process works on any more as failed."""
        path = f"/api/v2/dags/{run.dag_id}/dagRuns/{quote(run.run_id, safe='')}"
        self._request("PATCH", path, {"state": "failed"})

    def failed_tasks(self, run: DagRunState) -> list[str]:
        """Names of the tasks of a run that failed."""
        path = f"/api/v2/dags/{run.dag_id}/dagRuns/{quote(run.run_id, safe='')}/taskInstances"
        return [task["task_id"] for task in self._all(path, "task_instances") if task["state"] == "failed"]

    def _runs(self, query: dict[str, Any]) -> list[DagRunState]:
        return [
            DagRunState(run["dag_id"], run["dag_run_id"], run["state"], _instant(run["queued_at"]))
            for run in self._all("/api/v2/dags/~/dagRuns", "dag_runs", query)
        ]

    def _all(self, path: str, key: str, query: dict[str, Any] | None = None) -> Iterator[dict[str, Any]]:
        offset = 0
        while True:
            page = self._request("GET", path, query={**(query or {}), "limit": _PAGE, "offset": offset})
            yield from page[key]
            offset += _PAGE
            if offset >= page["total_entries"]:
                return

    def _request(
        self, method: str, path: str, body: dict[str, Any] | None = None, query: dict[str, Any] | None = None
    ) -> Any:
        request = self._http.build_request(method, path, params=query, json=body)
        what = f"{method} {request.url.raw_path.decode('ascii')}"
        try:
            return self._send(request)
        except httpx.HTTPStatusError as error:
            detail = error.response.text[:300]
            raise ExchangeError(
                f"Airflow answered {error.response.status_code} to {what}: {detail}", where=self._address
            ) from None
        except httpx.HTTPError as error:
            raise ExchangeError(
                f"Airflow did not respond to {what}: {error}",
                where=self._address,
                next_step="read airflow/logs/services/api-server.log in EXCHANGE_HOME, then start again",
            ) from None

    def _send(self, request: httpx.Request) -> Any:
        return self._http.send(request).raise_for_status().json()


def _instant(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
