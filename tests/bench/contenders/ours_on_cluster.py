"""Our own steps on Apache Spark: the same calls as `ours`, with another setting."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Any

from tests.bench.contenders import ours
from tests.bench.contenders.work import Work
from tests.bench.on_cluster import cluster


def start(work: Work) -> Any:
    """Start the cluster, then everything that `ours` starts."""
    stack = ExitStack()
    up = stack.enter_context(cluster(work.folder))
    os.environ["EXCHANGE_SPARK"] = up.connect
    work.events = up.log
    ours.start(work)
    return stack


def run(engine: Any, work: Work) -> None:
    """Run the steps."""
    ours.run(engine, work)


def stop(engine: Any) -> None:
    """End the session and the cluster."""
    ours.stop(None)
    engine.close()
