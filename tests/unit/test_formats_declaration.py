"""The ``format:`` and ``connector:`` blocks: an error names its field before any byte is read."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from jobs.declared.connector import AnyConnector, DropConnector, PackageConnector
from jobs.declared.format import AnyFormat, Delimited, JsonDocument, JsonLines
from jobs.declared.published import is_optional, published_names

formats: TypeAdapter[Any] = TypeAdapter(AnyFormat)
connectors: TypeAdapter[Any] = TypeAdapter(AnyConnector)


def test_the_type_chooses_the_model() -> None:
    assert formats.validate_python({"type": "delimited", "columns": ["a"]}) == Delimited(columns=("a",))
    assert formats.validate_python({"type": "json_lines", "columns": ["a"]}) == JsonLines(columns=("a",))
    document = formats.validate_python({"type": "json", "columns": ["a"], "record_path": "x.y"})
    assert isinstance(document, JsonDocument)
    assert document.path == ("x", "y")
    package = connectors.validate_python({"type": "package", "package": "p", "files": ["a.csv"]})
    assert package == PackageConnector(package="p", version="latest", files=("a.csv",))
    assert connectors.validate_python({"type": "drop", "files": ["*"]}) == DropConnector(files=("*",))


@pytest.mark.parametrize(
    ("block", "field", "message"),
    [
        ({"type": "csv"}, ("type",), "unknown format type; expected one of: delimited, json, json_lines"),
        ({"columns": []}, ("columns",), "at least 1 item"),
        ({"columns": ["a", " a"]}, ("columns",), "declared twice: a"),
        ({"columns": ["_row"]}, ("columns",), "like {as: row, published: [_row]}"),
        ({"columns": ["a", {"as": "b", "published": ["c", "a"]}]}, ("columns",), "declared twice: a"),
        ({"columns": ["a", {"as": "b", "publishd": ["c"]}]}, ("columns", 1, "publishd"), "Extra inputs"),
        ({"columns": ["a", {"published": ["c"]}]}, ("columns", 1, "as"), "Field required"),
        ({"columns": ["a", {"as": "b", "optional": True}], "header": False}, (), "found by position: 'b'"),
        ({"columns": ["a", False]}, ("columns", 1), "valid string"),
        ({"columns": ["a"], "encoding": "gb99"}, ("encoding",), "'gb99' is not an encoding"),
        ({"columns": ["a"], "encoding": "base64"}, ("encoding",), "not an encoding of text"),
        ({"columns": ["a"], "delimiter": "\\t"}, ("delimiter",), 'a tab is "\\t" in YAML'),
        ({"columns": ["a"], "delimiter": "\n"}, ("delimiter",), "does not end a line"),
        ({"columns": ["a"], "delimiter": '"'}, (), "must be different characters"),
        ({"columns": ["a"], "skip_lines": -1}, ("skip_lines",), "greater than or equal to 0"),
        ({"columns": ["a"], "delimeter": ","}, ("delimeter",), "Extra inputs are not permitted"),
        ({"columns": ["a"], "members": [" "]}, ("members",), "must not be empty"),
    ],
)
def test_an_invalid_format_is_refused_at_its_field(block: dict[str, Any], field: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        formats.validate_python({"type": "delimited", **block})
    assert caught.value.errors()[0]["loc"] == field
    assert message in str(caught.value)


def test_columns_keep_their_other_names_and_plain_ones_stay_plain() -> None:
    rate = {"as": "rate", "published": ["Value", "Exchange rate"], "optional": True}
    form = formats.validate_python({"type": "delimited", "columns": ["day", rate]})
    assert form.columns == ("day", "rate")
    assert form.model_dump(mode="json")["columns"] == ["day", rate]
    # It goes to the workers that read files.
    sent = pickle.loads(pickle.dumps(form))
    assert published_names(sent.columns) == ("day", "Value", "Exchange rate")
    assert [is_optional(column) for column in sent.columns] == [False, True]
    assert formats.validate_python({"type": "delimited", **form.model_dump(exclude={"type"})}) == form


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"type": "ftp"}, "unknown connector type; expected one of: drop, package"),
        ({"type": "drop", "files": []}, "at least 1 item"),
        ({"type": "drop", "files": ["../*.csv"]}, "relative path or glob"),
        ({"type": "drop", "files": ["/etc/passwd"]}, "relative path or glob"),
        ({"type": "drop", "files": ["model.PKL"]}, "is a pickle"),
        ({"type": "package", "package": "p", "files": ["a"], "version": ">=1"}, "String should match pattern"),
        ({"type": "package", "package": "-r", "files": ["a"]}, "String should match pattern"),
    ],
)
def test_an_invalid_connector_is_refused(block: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        connectors.validate_python(block)
    assert message in str(caught.value)
