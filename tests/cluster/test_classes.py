"""Spark's processes load their first classes from a shared archive, if Java can make one."""

from __future__ import annotations

import shutil
from pathlib import Path

import psutil
import pytest

from jobs.operate.cluster import jars
from jobs.operate.cluster.classes import classes_file, java_options
from jobs.operate.cluster.rehearsal import prepare
from tests.cluster.running import QUICK, Cluster, skip_without_java
from tests.waiting import wait_until


def _maps(process: psutil.Process, file: Path) -> bool:
    return any(mapped.path == str(file) for mapped in process.memory_maps())


def _executors(worker: psutil.Process) -> list[psutil.Process]:
    return [child for child in worker.children() if child.name() == "java"]


@pytest.mark.long
def test_every_java_of_a_cluster_maps_the_class_archive_if_set(
    other_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In the jars' shared folder, other tests would use the archive too.
    (tmp_path / "jars").mkdir()
    for jar in Path(QUICK["EXCHANGE_JARS"]).glob("*.jar"):
        shutil.copy(jar, tmp_path / "jars")
    other_cluster.variables.update(EXCHANGE_JARS=str(tmp_path / "jars"), EXCHANGE_CLASS_ARCHIVE="yes")
    code, output = other_cluster.run("up", "--workers", "2", "--cores", "1", "--memory", "1g")
    assert code == 0, output
    for name, value in other_cluster.environment().items():
        monkeypatch.setenv(name, value)
    archive = classes_file()
    assert archive.stat().st_size > 10_000_000
    parts = {name: psutil.Process(part["pid"]) for name, part in other_cluster.parts().items()}
    javas = {name: process for name, process in parts.items() if process.name() == "java"}
    assert javas.keys() == {"master", "worker-1", "worker-2", "connect"}

    def executors() -> list[psutil.Process]:
        return _executors(javas["worker-1"]) + _executors(javas["worker-2"])

    wait_until(lambda: len(executors()) >= 2, 280)
    assert [process.pid for process in [*javas.values(), *executors()] if not _maps(process, archive)] == []


def test_a_java_that_cannot_make_the_class_archive_is_tried_once_if_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, java = tmp_path / "calls", tmp_path / "java-home" / "bin" / "java"
    java.parent.mkdir(parents=True)
    version = """[ "$1" = -version ] && echo 'openjdk version "17.0.1"' >&2 && exit 0"""
    java.write_text(f'#!/bin/sh\n{version}\necho "$@" >> {calls}\nexit 1\n')
    java.chmod(0o755)
    (tmp_path / "jars").mkdir()
    (tmp_path / "jars.lock").write_text("")
    monkeypatch.setattr(jars, "LOCK", tmp_path / "jars.lock")
    monkeypatch.setenv("JAVA_HOME", str(java.parent.parent))
    monkeypatch.setenv("EXCHANGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("EXCHANGE_JARS", str(tmp_path / "jars"))
    prepare()
    assert not calls.exists()
    monkeypatch.setenv("EXCHANGE_CLASS_ARCHIVE", "yes")
    prepare()
    output = calls.read_text()
    assert "org.apache.spark.launcher.Main" in output
    assert java_options() == []
    assert list((tmp_path / "home" / "cluster" / "work").iterdir()) == []
    prepare()
    assert calls.read_text() == output


def test_an_existing_class_archive_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    skip_without_java()
    monkeypatch.setenv("EXCHANGE_JARS", str(tmp_path / "a folder"))
    assert java_options() == []
    classes_file().parent.mkdir()
    classes_file().write_bytes(b"classes")
    assert f"-XX:SharedArchiveFile={tmp_path}/a folder/{classes_file().name}" in java_options()
