"""Our own steps, as Airflow and the command line call them."""

from __future__ import annotations

import os
from typing import Any

from tests.bench.catalogue import PRODUCT, SOURCE, declare
from tests.bench.contenders.work import FILE_NAME, LOGICAL_DATE, RUN_ID, Work

STEPS = (("bronze", SOURCE), ("silver", SOURCE), ("check", SOURCE), ("gold", PRODUCT), ("check", PRODUCT))


def start(work: Work) -> Any:
    """Import everything the steps use, start the engine, open the registry and land the file."""
    os.environ["EXCHANGE_HOME"] = str(work.folder)
    os.environ["EXCHANGE_CATALOGUE"] = str(work.folder / "catalogue")
    declare(work.folder / "catalogue")
    drop = work.folder / "drop" / SOURCE
    drop.mkdir(parents=True)
    os.link(work.csv, drop / FILE_NAME)

    import jobs.bronze.step
    import jobs.check.evaluate
    import jobs.check.expectations
    import jobs.check.step
    import jobs.gold.step
    import jobs.silver.step  # noqa: F401 - imported to count their time
    from jobs.lake import connect
    from jobs.registry import engine

    engine()
    spark = connect()
    spark.range(1).collect()
    return spark


def run(engine: Any, work: Work) -> None:  # noqa: ARG001 - the steps find the engine themselves
    """Run the steps; landing is timed separately, since no peer keeps the publisher's bytes."""
    from jobs.flow import run_step

    with work.step("land"):
        run_step("land", SOURCE, LOGICAL_DATE, RUN_ID)
    for step, name in STEPS:
        label = f"check {'silver' if name == SOURCE else 'gold'}" if step == "check" else step
        with work.step(label):
            run_step(step, name, LOGICAL_DATE, RUN_ID)


def stop(engine: Any) -> None:  # noqa: ARG001 - the process keeps it
    """End the engine."""
    from jobs.lake import close

    close()
