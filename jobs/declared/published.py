"""A publisher's column: its name in bronze, what publishers have called it over time, and whether files may lack it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, PlainSerializer, PlainValidator

from jobs.declared.yaml_file import Declared


class PublishedColumn(str):
    """The name of a column in bronze, which readers of formats use like any text.

    Attributes:
        published: the names under which files may have it; one of them in any file.
        is_optional: whether a file may lack it.
    """

    published: tuple[str, ...]
    is_optional: bool

    def __new__(cls, name: str, published: tuple[str, ...] = (), *, is_optional: bool = False) -> Self:
        """A column, which files have under its own name unless others are given."""
        column = super().__new__(cls, name)
        column.published = published or (name,)
        column.is_optional = is_optional
        return column


class _Entry(Declared):
    """A column that is more than its name in the list of ``columns:``."""

    as_: str = Field(alias="as", min_length=1)
    published: tuple[str, ...] = Field(default=(), description="names that files give it; the name of `as` if absent")
    optional: bool = Field(default=False, description="a file may lack it; its rows then have no value")


def published_names(columns: Sequence[str]) -> tuple[str, ...]:
    """All names under which files may have these columns."""
    return tuple(name for column in columns for name in names_of(column))


def names_of(column: str) -> tuple[str, ...]:
    """The names under which files may have a column."""
    return column.published if isinstance(column, PublishedColumn) else (column,)


def is_optional(column: str) -> bool:
    """Whether a file may lack a column."""
    return isinstance(column, PublishedColumn) and column.is_optional


def is_plain(column: str) -> bool:
    """Whether a column is declared by its name alone: every file has it, under that name."""
    return names_of(column) == (column,) and not is_optional(column)


def _column(value: Any) -> PublishedColumn:
    if isinstance(value, PublishedColumn):
        return value
    if isinstance(value, str):
        return PublishedColumn(value)
    if not isinstance(value, dict):
        raise ValueError(
            "not a valid string; expected a name, or {as: name, published: [names in files], optional: true}"
        )
    entry = _Entry.model_validate(value)
    return PublishedColumn(entry.as_, entry.published, is_optional=entry.optional)


def _declaration(column: str) -> Any:
    """As declared: plain names stay plain, so that the digests of the tables that exist do too."""
    if is_plain(column):
        return str(column)
    return {"as": str(column), "published": list(names_of(column)), "optional": is_optional(column)}


def _distinct(columns: tuple[str, ...]) -> tuple[str, ...]:
    for name in (*columns, *published_names(columns)):
        if not name.strip():
            raise ValueError("a column needs a name")
    for name in columns:
        if name.startswith("_"):
            raise ValueError(
                f"{name!r}: names beginning with an underscore are kept for bookkeeping;"
                f" expected another name for it, like {{as: {name.strip('_ ') or 'id'}, published: [{name}]}}"
            )
    for declared in (columns, published_names(columns)):
        names = [name.strip() for name in declared]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"declared twice: {', '.join(repeated)}")
    return columns


Columns = Annotated[
    tuple[Annotated[str, PlainValidator(_column), PlainSerializer(_declaration)], ...],
    Field(min_length=1),
    AfterValidator(_distinct),
]
