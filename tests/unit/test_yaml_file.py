"""Declarations of any size and nesting are read or refused with their line, never by a crash."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.declared.yaml_file import read_yaml, yaml_text
from jobs.errors import DeclarationError

MULTIPLIED = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: 1\nb: " + "[" * 100_000, 2, "nested too deeply"),
        ("a: " + "{b: " * 100_000, 1, "nested too deeply"),
        ("a:\n" + "".join(" " * n + "-\n" for n in range(1, 200)), 50, "nested too deeply"),
        (MULTIPLIED, 6, r"the aliases \(\*name\) stand for too much"),
        ("a: &a [*a]", 1, "stand for too much"),
        ("a: &a\n  b: {c: *a}", 2, "stand for too much"),
    ],
    ids=["lists", "mappings", "indented", "multiplied", "itself", "within-itself"],
)
def test_what_would_crash_or_never_end_is_refused_with_its_line(
    tmp_path: Path, text: str, line: int, message: str
) -> None:
    file = tmp_path / "source.yaml"
    file.write_text(text)
    with pytest.raises(DeclarationError, match=message) as refused:
        read_yaml(file)
    assert f"source.yaml:{line}" in str(refused.value)


def test_aliases_that_stand_for_little_are_read(tmp_path: Path) -> None:
    file = tmp_path / "source.yaml"
    file.write_text("base: &base {a: 1}\nother: {<<: *base, b: [*base, *base]}")
    assert read_yaml(file)["other"] == {"a": 1, "b": [{"a": 1}, {"a": 1}]}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1, max_size=5), inner, max_size=3),
    max_leaves=20,
)


@given(st.dictionaries(st.text(min_size=1, max_size=5), VALUES, min_size=1, max_size=3))
def test_documents_are_read_back_as_written(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, object]
) -> None:
    file = tmp_path_factory.getbasetemp() / "x.yaml"
    file.write_text(yaml_text(document), encoding="utf-8")
    assert read_yaml(file) == document


def test_line_ends_of_unicode_are_read_back(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    document = {"\x85": "a\u2028b\x85", "地区": "\ufeffc\x00"}
    file.write_text(yaml_text(document), encoding="utf-8")
    assert read_yaml(file) == document
