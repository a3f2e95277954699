"""Counts the jobs, stages and tasks that Spark ran for a step, from its driver's event log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Any

# A plan as first made, and as changed by adaptive execution.
_PLANS = ("SparkListenerSQLExecutionStart", "SparkListenerSQLAdaptiveExecutionUpdate")


@dataclass
class Work:
    """What Spark did in a period.

    Attributes:
        jobs: actions, and what Delta runs for them.
        stages: those that ran; a stage whose output an earlier job left is skipped.
        tasks: that ended, each the work of one core on one partition.
        task_seconds: time that cores spent in tasks.
        spilled: bytes that did not fit into memory and went to a disk.
        files_read: data files that queries opened, each as often as it was.
        call_sites: where in Spark each job was begun, in order.
    """

    jobs: int = 0
    stages: int = 0
    tasks: int = 0
    task_seconds: float = 0.0
    spilled: int = 0
    files_read: int = 0
    call_sites: tuple[str, ...] = ()

    def add_task(self, event: dict[str, Any]) -> None:
        """Count a finished task."""
        took = event["Task Info"]["Finish Time"] - event["Task Info"]["Launch Time"]
        self.tasks += 1
        self.task_seconds += took / 1000
        self.spilled += (event.get("Task Metrics") or {}).get("Disk Bytes Spilled", 0)


@dataclass(frozen=True)
class EventLog:
    """The event log of one Spark driver on this machine."""

    folder: Path

    @property
    def java_options(self) -> str:
        """The JDK_JAVA_OPTIONS to start the driver with, and no other program of Spark."""
        self.folder.mkdir(parents=True, exist_ok=True)
        options = {"enabled": "true", "dir": self.folder.as_uri(), "compress": "false", "rolling.enabled": "false"}
        return " ".join(f"-Dspark.eventLog.{name}={value}" for name, value in options.items())

    @contextmanager
    def counted(self) -> Iterator[Work]:
        """Count what the driver does in the block; the figures are complete when it ends."""
        began = int(time() * 1000)
        work = Work()
        yield work
        jobs: list[dict[str, Any]] = []
        queries: set[int] = set()
        scans: set[int] = set()
        for event in self._events():
            kind = event["Event"].rpartition(".")[2]
            if kind == "SparkListenerJobStart" and event["Submission Time"] >= began:
                jobs.append(event)
            elif kind == "SparkListenerStageCompleted" and event["Stage Info"]["Submission Time"] >= began:
                work.stages += 1
            elif kind == "SparkListenerTaskEnd" and event["Task Info"]["Launch Time"] >= began:
                work.add_task(event)
            elif kind in _PLANS and (event.get("time", 0) >= began or event["executionId"] in queries):
                queries.add(event["executionId"])
                scans |= set(_scans(event["sparkPlanInfo"]))
            elif kind == "SparkListenerDriverAccumUpdates" and event["executionId"] in queries:
                work.files_read += sum(value for number, value in event["accumUpdates"] if number in scans)
        work.jobs = len(jobs)
        work.call_sites = tuple(_told(event) for event in jobs)

    def _events(self) -> Iterator[dict[str, Any]]:
        for file in sorted(self.folder.glob("*")):
            with file.open(encoding="utf-8") as lines:
                for line in lines:
                    # The last line may be incomplete; it belongs to no finished job.
                    if line.endswith("\n"):
                        yield json.loads(line)


def _told(event: dict[str, Any]) -> str:
    """The description of a job, if Spark has one."""
    output = event["Properties"]
    return f"{output.get('spark.job.description') or ''} {output.get('callSite.short') or ''}".strip()


def _scans(plan: dict[str, Any]) -> Iterator[int]:
    """Numbers of the metrics that count files read, of all scans of data; those of Delta's log are left out."""
    if "DeltaLogFileIndex" not in plan.get("metadata", {}).get("Location", ""):
        yield from (m["accumulatorId"] for m in plan["metrics"] if m["name"] == "number of files read")
    for child in plan["children"]:
        yield from _scans(child)
