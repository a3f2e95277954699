"""Each module that makes an engine work is covered by a test marked to run on both engines."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from jobs.settings import CHECKOUT

ROOMS = ("lake", "silver", "check")


def _marks() -> Iterator[tuple[str, list[str]]]:
    """Place and arguments of each `both_engines` mark in the lake tests: the reason, then modules."""
    for file in sorted((CHECKOUT / "tests" / "lake").glob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("mark.both_engines"):
                yield f"{file.name}:{node.lineno}", [ast.literal_eval(argument) for argument in node.args]


def _modules(room: str) -> set[str]:
    return {f"{room}.{file.stem}" for file in (CHECKOUT / "jobs" / room).glob("*.py") if file.stem != "__init__"}


@pytest.mark.parametrize("room", ROOMS)
def test_every_engine_module_has_a_case_on_both_engines(room: str) -> None:
    named = {module for _, (_, *modules) in _marks() for module in modules}
    assert _modules(room) - named == set(), "mark a test of the lake with both_engines(reason, module)"


def test_every_mark_gives_a_reason_and_names_existing_modules() -> None:
    existing = {module for room in ROOMS for module in _modules(room)}
    for place, (reason, *modules) in _marks():
        assert reason and reason not in existing, f"{place} gives no reason"
        assert set(modules) <= existing, f"{place} names modules that do not exist"
