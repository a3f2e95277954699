"""Plain PySpark with Delta on the same workers as `ours_on_cluster`, with Spark's own defaults."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from tests.bench.contenders import spark
from tests.bench.contenders.work import Work
from tests.bench.on_cluster import CORES, MEMORY, WORKERS, cluster


def start(work: Work) -> Any:
    """Start the cluster, with a separate driver in place of its Connect server."""
    from pyspark.sql import SparkSession

    from jobs.operate.cluster.jars import fetch_jars
    from jobs.operate.cluster.state import load

    stack = ExitStack()
    up = stack.enter_context(cluster(work.folder))
    state = load()
    connect = state.parts["connect"].process() if state else None
    if connect:
        # It holds all cores of the workers and would keep them.
        connect.terminate()
        connect.wait()
    work.events = up.log
    builder = (
        SparkSession.builder.master(up.master)
        .config("spark.jars", ",".join(map(str, fetch_jars())))
        .config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
        .config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.authenticate", "true")
        .config("spark.authenticate.secret", up.secret)
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.executor.memory", MEMORY)
        # Otherwise the workers pass our settings on to executors.
        .config("spark.executorEnv.JDK_JAVA_OPTIONS", "-Dplain=true")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.log.level", "ERROR")
    )
    session = builder.getOrCreate()
    executors = session.sparkContext._jsc.sc().defaultParallelism()
    if executors != WORKERS * CORES:
        raise RuntimeError(f"{executors} cores instead of {WORKERS * CORES}")
    stack.callback(session.stop)
    return stack, session


def run(engine: Any, work: Work) -> None:
    """Do the work."""
    spark.run(engine[1], work)


def stop(engine: Any) -> None:
    """End the driver and the cluster."""
    engine[0].close()
