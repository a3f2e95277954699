"""Each module whose work an engine does is proven on both engines by a case that says so."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from jobs.settings import CHECKOUT

ROOMS = ("lake", "silver", "check")


def _marks() -> Iterator[tuple[str, list[str]]]:
    """Where each mark `both_engines` of the lake's tests is, with its words: the reason, then modules."""
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
    there = {module for room in ROOMS for module in _modules(room)}
    for place, (reason, *modules) in _marks():
        assert reason and reason not in there, f"{place} gives no reason"
        assert set(modules) <= there, f"{place} names modules that are not there"
