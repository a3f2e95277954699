"""A release's number shows what kind of change it brings."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.release.difference import Difference, Fingerprint, Side, schema_changes
from jobs.release.manifest import SchemaChange, content_digest, parse_number
from jobs.release.snapshot import Snapshot
from jobs.release.step import next_number

KINDS = get_args(SchemaChange.model_fields["kind"].annotation)
BREAKS = {"column_removed", "type_changed", "key_changed", "may_be_absent"}

numbers = st.tuples(*[st.integers(0, 50)] * 3)
counts = st.integers(0, 3)
changes = st.lists(st.sampled_from(KINDS).map(lambda kind: SchemaChange(kind=kind)), max_size=4).map(tuple)


@given(before=numbers, added=counts, removed=counts, changed=counts, schema=changes)
def test_the_number_shows_the_kind_of_change(
    before: tuple[int, int, int], added: int, removed: int, changed: int, schema: tuple[SchemaChange, ...]
) -> None:
    after = next_number(before, Difference(added, removed, changed, schema, Fingerprint()))
    kinds = {change.kind for change in schema}
    assert after > before
    if kinds & BREAKS:
        assert after == (before[0] + 1, 0, 0)
    elif added or "column_added" in kinds:
        assert after == (before[0], before[1] + 1, 0)
    else:
        assert after == (*before[:2], before[2] + 1)


def test_the_first_release_is_1_0_0() -> None:
    assert next_number(None, Difference(0, 0, 0, (), Fingerprint())) == (1, 0, 0)


def side(columns: dict[str, str], key: tuple[str, ...] = ("k",), required: frozenset[str] = frozenset()) -> Side:
    return Side(Snapshot("gold.p", "id", 0, columns, (), {}), key, required)


@pytest.mark.parametrize(
    ("before", "after", "kinds"),
    [
        (side({"k": "long", "v": "double"}), side({"v": "double", "k": "long"}), []),
        (side({"k": "long"}), side({"k": "long", "_run": "string"}), []),
        (side({"k": "long"}), side({"k": "long", "v": "double"}), ["column_added"]),
        (side({"k": "long", "v": "double"}), side({"k": "long", "w": "double"}), ["column_removed", "column_added"]),
        (side({"k": "integer"}), side({"k": "long"}), ["type_changed"]),
        (side({"k": "long", "v": "long"}), side({"k": "long", "v": "long"}, ("k", "v")), ["key_changed"]),
        (side({"k": "long"}, required=frozenset("k")), side({"k": "long"}), ["may_be_absent"]),
        (side({"k": "long"}), side({"k": "long"}, required=frozenset("k")), ["always_present"]),
    ],
)
def test_schema_changes_are_classified(before: Side, after: Side, kinds: list[str]) -> None:
    assert [change.kind for change in schema_changes(before, after)] == kinds


@given(numbers)
def test_a_release_number_parses_back(number: tuple[int, int, int]) -> None:
    assert parse_number(".".join(map(str, number))) == number


@pytest.mark.parametrize("text", ["", "1", "1.2", "1.2.3.4", "v1.2.3", "01.2.3", "1.2.-3", "1.2.x", "1.2.٣", "1.2.3 "])
def test_text_that_is_no_release_number_is_refused(text: str) -> None:
    assert parse_number(text) is None


def test_content_does_not_depend_on_the_order_of_columns() -> None:
    one, other = {"a": "long", "b": "string"}, {"b": "string", "a": "long"}
    assert content_digest(one, 3, "1:2") == content_digest(other, 3, "1:2")
    assert len({content_digest(one, 3, "1:2"), content_digest(one, 4, "1:2"), content_digest(one, 3, "2:1")}) == 3
