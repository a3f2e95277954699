"""Runs the torture: ``python -m tests.torture``, with KILLS, SEED, ENGINE (cluster or embedded) and SOURCES (by default
the whole default catalogue) in the environment. The exit code is 1 if any table differs from that of an undisturbed
exchange, if a step fails without a message or hangs, or if it takes more than three runs to repair.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.declared.catalog import load_catalog
from jobs.settings import CHECKOUT, settings
from tests.cluster.faults import Faults
from tests.cluster.running import Cluster
from tests.lake.killed import Undertaker
from tests.torture.scene import Order, Scene, make_scene, orders, state

# The longest that a step may take, whatever was killed, in seconds.
HANGS = 600.0
REPAIRS = 3
# Weights of what to kill on a cluster; without one, only the step's process is killed.
PARTS = {"process": 6, "connect": 2, "worker-1": 1, "worker-2": 1}


@dataclass
class Torture:
    """One torture run: what it kills, and the figures it collects."""

    root: Path
    cluster: Cluster | None
    chance: random.Random
    kills: int
    order: list[Order]
    undertaker: Undertaker = field(default_factory=Undertaker.begin)
    waiting: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    usual: dict[Order, float] = field(default_factory=dict)
    killed: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    by_step: Counter[str] = field(default_factory=Counter)
    repairs: Counter[str] = field(default_factory=Counter)
    missed: int = 0
    faults: list[str] = field(default_factory=list)

    def go(self) -> None:
        """Run an undisturbed exchange, then disturbed ones until all kills are done."""
        calm = make_scene(self.root, "calm", self.cluster)
        # So that imports do not count as a step's time.
        self.undertaker.run(calm.home, CHECKOUT, [])
        for order in self.order:
            began = time.monotonic()
            ended = self.run(calm, order)
            assert ended["error"] is None and len(ended["statuses"]) == 1, (order, ended)
            self.usual[order] = time.monotonic() - began
            say(f"undisturbed: {order[0]} {order[1]} {ended['statuses'][0]} in {self.usual[order]:.1f} s")
        expected = self.state_of(calm)
        number = 0
        while sum(self.killed.values()) < self.kills and not self.faults:
            number += 1
            scene = make_scene(self.root, f"round_{number}", self.cluster)
            for order in self.order:
                self.disturb(scene, order)
            actual = self.state_of(scene)
            differing = [name for name in expected if actual.get(name) != expected[name]]
            self.faults += [f"round {number}: {name} is {actual.get(name)}, not {expected[name]}" for name in differing]
            say(f"round {number}: {'all tables equal' if not differing else f'DIFFERENT: {differing}'}")

    def disturb(self, scene: Scene, order: Order) -> None:
        """Kill one step up to four times, then run it until it is repaired."""
        for _ in range(self.chance.choice((1, 2, 3, 4))):
            if sum(self.killed.values()) >= self.kills:
                break
            parts = PARTS if self.cluster else {"process": 1}
            part = self.chance.choices(list(parts), weights=list(parts.values()))[0]
            instant = self.chance.uniform(0.02, self.usual[order])
            outcome = self.kill_during(scene, order, part, instant)
            if part == "process" and outcome == "ended well":
                # It ended before the kill.
                self.missed += 1
                continue
            self.killed[part] += 1
            self.by_step[order[0]] += 1
            self.outcomes[outcome] += 1
            total = sum(self.killed.values())
            say(f"{total}/{self.kills}: {part} killed {instant:.1f} s into {order[0]} {order[1]}: {outcome}")
        for attempt in range(1, REPAIRS + 1):
            ended = self.run(scene, order)
            if ended["statuses"]:
                self.repairs[f"run {attempt}"] += 1
                return
            say(f"  run {attempt} of {order}: {ended['error']}")
        self.faults.append(f"{order} was not repaired by {REPAIRS} runs: {ended}")

    def kill_during(self, scene: Scene, order: Order, part: str, instant: float) -> str:
        """Kill a part at an instant of a step and restart it; returns how the step ended."""
        if part == "process":
            ended = self.run(scene, order, seconds=instant)
        else:
            assert self.cluster
            future = self.begin(scene, order)
            time.sleep(instant)
            faults = Faults(self.cluster)
            faults.kill(part)
            ended = future.result(HANGS)
            faults.up()
        if ended["signal"] == 9:
            return "killed"
        if ended["statuses"]:
            return "ended well"
        if ended["error"]:
            say(f"  {ended['error']}")
            return "failed with a message"
        self.faults.append(f"{order} ended without a message when {part} was killed: {ended}")
        return "failed WITHOUT a message"

    def begin(self, scene: Scene, order: Order, seconds: float = 0.0) -> Future[dict[str, Any]]:
        return self.waiting.submit(
            self.undertaker.run, scene.home, CHECKOUT, [order], seconds=seconds, **scene.variables
        )

    def run(self, scene: Scene, order: Order, seconds: float = 0.0) -> dict[str, Any]:
        return self.begin(scene, order, seconds).result(HANGS)

    def state_of(self, scene: Scene) -> dict[str, Any]:
        with scene.entered():
            return state(self.order)


def main() -> int:
    """Run the torture and print its figures."""
    seed = int(os.environ.get("SEED") or time.time())
    kills = int(os.environ.get("KILLS") or 200)
    engine = os.environ.get("ENGINE") or "cluster"
    sources = (os.environ.get("SOURCES") or ",".join(load_catalog().sources)).split(",")
    root = settings().home / "torture" / time.strftime("%Y%m%dT%H%M%S")
    say(f"{kills} kills on {engine}, SEED={seed}, sources {', '.join(sources)}; state in {root}")
    began = time.monotonic()
    cluster = Cluster(root / "cluster") if engine == "cluster" else None
    try:
        if cluster:
            code, output = cluster.run("up", "--workers", "2", "--cores", "1", "--memory", "1g")
            assert code == 0, output
        torture = Torture(root, cluster, random.Random(seed), kills, orders(sources))
        torture.go()
    finally:
        if cluster:
            cluster.run("down")
    figures = {
        "seed": seed, "engine": engine, "sources": sources, "seconds": round(time.monotonic() - began),
        "kills": dict(torture.killed), "missed": torture.missed,
        "by step": dict(torture.by_step), "struck steps": dict(torture.outcomes),
        "repaired by": dict(torture.repairs), "faults": torture.faults,
    }  # fmt: skip
    (root / "figures.json").write_text(json.dumps(figures, indent=1), encoding="utf-8")
    say(json.dumps(figures, indent=1))
    return int(bool(torture.faults))


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
