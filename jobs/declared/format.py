"""The ``format:`` block of a source: what its bytes mean, checked before any byte is read.

To add a format, write its model here, list it in `FORMATS`, and write ``jobs/bronze/formats/<type>.py`` with ``read``.
A package outside the exchange adds one as `jobs.extensions` describes.
"""

from __future__ import annotations

import codecs
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, PlainValidator, SerializeAsAny, field_validator, model_validator

from jobs.declared.block import Block, by_type, choose
from jobs.declared.published import Columns, is_plain

GROUP = "exchange.formats"


def _codec(name: str) -> str:
    try:
        info = codecs.lookup(name)
    except LookupError as error:
        raise ValueError(f"{name!r} is not an encoding; expected a name like utf-8, gb18030 or big5hkscs") from error
    if not getattr(info, "_is_text_encoding", True) or info.incrementaldecoder is None:
        raise ValueError(f"{name!r} is not an encoding of text that can be read as a stream")
    return name


def _character(value: str) -> str:
    if len(value) != 1 or not value.isascii() or value in "\r\n":
        raise ValueError(f'{value!r} must be one ASCII character that does not end a line (a tab is "\\t" in YAML)')
    return value


Encoding = Annotated[str, AfterValidator(_codec)]
Character = Annotated[str, AfterValidator(_character)]


class Format(Block):
    """What all formats share: the encoding, the published names, which members of an archive to read."""

    encoding: Encoding = Field(default="utf-8", description="encoding of the text; a byte order mark is always dropped")
    columns: Columns = Field(description="names in bronze, in its order; with `published:` where files have others")
    null_values: tuple[str, ...] = Field(default=("",), description="texts that mean no value; applied when typed")
    members: tuple[str, ...] = Field(
        default=(), description="globs choosing the members of a zip or tar; needed when it holds several files"
    )

    @field_validator("members")
    @classmethod
    def _no_empty_glob(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(not glob.strip() for glob in value):
            raise ValueError('a member glob must not be empty; expected for example "*.csv"')
        return value


class Delimited(Format):
    """Text with one record per line and a delimiter between cells: CSV, TSV and similar."""

    type: Literal["delimited"] = "delimited"
    delimiter: Character | None = Field(default=None, description="between cells; null: guessed from the first lines")
    quote: Character | None = Field(default='"', description="around cells; null: quotes mean nothing")
    escape: Character | None = Field(default=None, description="makes the next character literal; null: none")
    blank_before_quote: bool = Field(
        default=False, description="blanks around a quoted cell mean nothing; otherwise the cell is taken literally"
    )
    ragged: bool = Field(
        default=False,
        description="a record may lack its last cells, and have empty cells beyond the last column",
    )
    header: bool = Field(default=True, description="the first line names the columns, which are matched by name")
    skip_lines: int = Field(default=0, ge=0, le=10_000, description="lines before the header or the first record")

    @model_validator(mode="after")
    def _different_characters(self) -> Self:
        given = [mark for mark in (self.delimiter, self.quote, self.escape) if mark]
        if len(set(given)) != len(given):
            raise ValueError("delimiter, quote and escape must be different characters")
        return self

    @model_validator(mode="after")
    def _named_by_a_header(self) -> Self:
        known = [column for column in self.columns if not is_plain(column)]
        if known and not self.header:
            raise ValueError(
                f"without a header, columns are found by position: {known[0]!r} can have no other names, nor be absent"
            )
        return self


class JsonLines(Format):
    """One JSON object per line."""

    type: Literal["json_lines"] = "json_lines"


class JsonDocument(Format):
    """One JSON document that holds an array of objects, or of arrays with a value for each column."""

    type: Literal["json"] = "json"
    record_path: str = Field(
        default="",
        description="dotted keys and positions that lead to the array, like data.0.rows; empty: it is the document",
    )
    records: Literal["objects", "arrays", "arrays_after_header"] = Field(
        default="objects",
        description="objects; arrays whose values are in the order of the columns; or such arrays after one of names",
    )

    @property
    def path(self) -> tuple[str, ...]:
        """The keys of ``record_path``, outermost first."""
        return tuple(self.record_path.split(".")) if self.record_path else ()


FORMATS: dict[str, type[Format]] = by_type(Delimited, JsonLines, JsonDocument)


def _choose(value: Any) -> Format:
    return choose(value, FORMATS, GROUP, Format)


# Any format in YAML. Serialized with all fields of its own model, not only with those that all share.
AnyFormat = Annotated[SerializeAsAny[Format], PlainValidator(_choose)]
