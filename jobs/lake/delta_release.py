"""Says which release of Delta Lake Spark works with, so that jars, messages and measurements all name the same one."""

from __future__ import annotations

from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires

from packaging.requirements import Requirement

from jobs.errors import ExchangeError


def delta_release() -> str:
    """Version of delta-spark that the extra `cluster` of this project pins, whether that extra is installed or not.

    Raises:
        ExchangeError: the metadata of this installation name no delta-spark.
    """
    with suppress(PackageNotFoundError):
        for line in requires("data-exchange-lake") or ():
            requirement = Requirement(line)
            if requirement.name == "delta-spark":
                return next(iter(requirement.specifier)).version
    raise ExchangeError(
        "this installation does not say which delta-spark it works with",
        expected="delta-spark==… among the requirements of the extra 'cluster'",
        next_step="install this project again",
    )


def delta_coordinates() -> str:
    """What Maven calls that release, built for the Spark and the Scala that pyspark carries."""
    return f"io.delta:delta-spark_4.1_2.13:{delta_release()}"
