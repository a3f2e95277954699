"""A cluster's jars have the Delta Lake version that the requirements pin."""

from __future__ import annotations

import tomllib
from pathlib import Path

from jobs.lake import delta_release
from jobs.operate.cluster.jars import read_lock

UV_LOCK = Path(__file__).parents[2] / "uv.lock"


def test_jars_requirements_and_lock_pin_the_same_version_of_delta() -> None:
    packages = tomllib.loads(UV_LOCK.read_text("utf-8"))["package"]
    locked = [package["version"] for package in packages if package["name"] == "delta-spark"]
    assert locked == [delta_release()]
    versions = {jar.artifact: jar.version for jar in read_lock() if jar.group == "io.delta"}
    assert "delta-spark_4.1_2.13" in versions
    assert set(versions.values()) == set(locked), "run `exchange cluster lock-jars` and commit jars.lock"
