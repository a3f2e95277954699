"""Proposes a contract's columns from text: names in house style, types, required columns and enums; and tries them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from jobs.declared.columns import ColumnDictionary, ColumnEntry
from jobs.declared.sql import literal, quote
from jobs.scaffold.kinds import PLACEHOLDERS, fits, kind_of
from jobs.scaffold.names import column_name, unit_of, words_of
from jobs.scaffold.numerals import Commas, Doubt, Kind, certain_comma
from jobs.scaffold.texts import BLANKS, Trim, trim_of

if TYPE_CHECKING:
    import pyarrow as pa

_FEW = 12
_SHOWN = 60


@dataclass(frozen=True)
class Proposal:
    """One proposed column.

    Attributes:
        published: the publisher's name for it.
        transform: SQL that converts the published text; None if name and text need no change.
        doubts: what the engineer should review.
        effects: what becomes of the sample's cells: refused, emptied, trimmed.
        entry: the column dictionary's entry for the name; None if it has none.
    """

    published: str
    name: str
    type: str
    transform: str | None
    required: bool
    enum: tuple[str, ...] = ()
    unit: str | None = None
    doubts: tuple[str, ...] = ()
    effects: tuple[str, ...] = ()
    entry: ColumnEntry | None = None


@dataclass(frozen=True)
class _Texts:
    """The distinct texts of one column of the sample.

    Attributes:
        counted: how many cells have each text that is not blank.
        absent: how many cells are null or blank.
        blank: those of them that are blank but neither null nor empty.
        trim: the step that takes off the blanks around texts; None if there are none.
    """

    counted: Mapping[str, int]
    absent: int
    blank: int
    trim: Trim | None

    @property
    def trimmed(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(v.strip(BLANKS) for v in self.counted))

    @property
    def values(self) -> tuple[str, ...]:
        return tuple(v for v in self.trimmed if v.lower() not in PLACEHOLDERS)

    @property
    def placeholders(self) -> tuple[str, ...]:
        return tuple(sorted(v for v in self.trimmed if v.lower() in PLACEHOLDERS))

    def cells(self, *trimmed: str) -> int:
        """How many cells have one of these texts."""
        return sum(n for v, n in self.counted.items() if v.strip(BLANKS) in trimmed)


def proposals(
    table: pa.Table,
    names: Sequence[str],
    dictionary: ColumnDictionary | None = None,
    *,
    delimiter: str | None = None,
    lines: pa.ChunkedArray | None = None,
    units: Mapping[str, str] | None = None,
) -> tuple[Proposal, ...]:
    """Propose a contract column for each named text column of a table.

    Args:
        table: the sample; every column is text.
        names: the published names of the columns to propose.
        dictionary: the catalogue's column dictionary, which decides type and unit of the names in it.
        delimiter: between cells of the sample, if it is delimited text.
        lines: the line of each row, for messages.
        units: what a row of units says of a published name.
    """
    entries = dictionary.entries if dictionary else {}
    texts = {name: _texts(table.column(name)) for name in names}
    certain = {c for c in (certain_comma(t.values) for t in texts.values() if t.values) if c is not None}
    commas = Commas(certain.pop() if len(certain) == 1 else None, delimiter)
    proposed: dict[str, Proposal] = {}
    for name in names:
        made = _proposal(name, texts[name], table.num_rows, proposed, entries, commas, (units or {}).get(name))
        proposed[made[0].name] = replace(made[0], doubts=_told(made[1], table.column(name), lines))
    return tuple(proposed.values())


def _texts(values: pa.ChunkedArray) -> _Texts:
    import pyarrow.compute as pc

    counted = {r["values"]: r["counts"] for r in pc.value_counts(values).to_pylist()}
    absent = counted.pop(None, 0) + counted.pop("", 0)
    blank = {v: n for v, n in counted.items() if not v.strip(BLANKS)}
    trim = trim_of(counted)
    for value in blank:
        del counted[value]
    return _Texts(counted, absent + sum(blank.values()), sum(blank.values()), trim)


def _proposal(
    published: str,
    texts: _Texts,
    rows: int,
    taken: Mapping[str, Proposal],
    entries: Mapping[str, ColumnEntry],
    commas: Commas,
    unit: str | None,
) -> tuple[Proposal, tuple[Doubt, ...]]:
    words = words_of(published)
    values = texts.values
    kind = kind_of(values, words, commas)
    if not values and texts.counted:
        kind = Kind("STRING", doubts=(Doubt("only words for no value in the sample", next(iter(texts.counted))),))
    plain = "_".join(words)
    name = plain if plain in entries and plain not in taken else column_name(words, kind.type, taken)
    entry = entries.get(name)
    if entry:
        kind = _as_declared(entry, kind, values)
    placeholders = texts.placeholders if kind.type != "STRING" else ()
    required = rows > 0 and texts.absent == 0 and not placeholders
    enum = _enum(kind, texts, rows) if not placeholders else ()
    made = Proposal(
        published,
        name,
        kind.type,
        _transform(published, name, kind, placeholders, texts),
        required,
        enum,
        entry.unit if entry else _unit(name, kind, unit),
        (),
        _effects(kind, texts, placeholders),
        entry,
    )
    return made, kind.doubts


def _as_declared(entry: ColumnEntry, kind: Kind, values: Sequence[str]) -> Kind:
    """Convert the text to the type in the column dictionary, with a doubt about values that do not fit."""
    if entry.type == kind.type:
        return kind
    wanted = replace(kind, type=entry.type)
    misfits = [v for v in values if not fits(v, wanted)]
    if misfits:
        shown = f" ({misfits[0]!r}, for example)" if entry.classification in (None, "general") else ""
        doubt = (
            f"{len(misfits)} of {len(values)} distinct values do not fit {entry.type}, its type in the column "
            f"dictionary{shown}; correct transformLogic, or give the column another name"
        )
        return Kind(entry.type, doubts=(Doubt(doubt),))
    return Kind(entry.type) if entry.type == "STRING" else wanted


def _transform(published: str, name: str, kind: Kind, placeholders: Sequence[str], texts: _Texts) -> str | None:
    text = quote(published)
    trim = texts.trim
    if kind.type == "STRING":
        if trim:
            text = trim.sql(text)
        if texts.blank:
            text = f"nullif({text}, '')"
        return None if text == quote(published) and published.lower() == name else text
    # Conversions trim blanks themselves, but not the white space of other kinds.
    if trim and (trim != Trim() or texts.blank or placeholders or kind.pattern):
        text = trim.sql(text)
    elif kind.pattern or (kind.steps and trim):
        text = Trim().sql(text)
    for word in ([""] if texts.blank else []) + list(placeholders):
        text = f"nullif({text}, {literal(word)})"
    for step in kind.steps:
        text = step.sql(text)
    if text == quote(published) and published.lower() == name:
        return None
    if kind.pattern:
        text = f"try_to_timestamp({text}, '{kind.pattern}')"
    return f"try_cast({text} as {kind.type.lower()})"


def _effects(kind: Kind, texts: _Texts, placeholders: Sequence[str]) -> tuple[str, ...]:
    """Try the proposal on the sample: what it would refuse, empty or change."""
    effects = []
    misfits = [v for v in texts.values if not fits(v, kind)]
    if misfits:
        effects.append(f"{texts.cells(*misfits):,} cells would be refused, such as {misfits[0][:_SHOWN]!r}")
    if placeholders:
        shown = ", ".join(repr(p) for p in placeholders)
        effects.append(f"{texts.cells(*placeholders):,} cells with {shown} become empty")
    if texts.blank:
        effects.append(f"{texts.blank:,} cells of nothing but blanks become empty")
    changed = sum(n for v, n in texts.counted.items() if v.strip(BLANKS) != v)
    if changed and kind.type == "STRING":
        effects.append(f"{changed:,} cells lose the blanks around them")
    return tuple(effects)


def _enum(kind: Kind, texts: _Texts, rows: int) -> tuple[str, ...]:
    values = texts.trimmed
    few = 2 <= len(values) <= _FEW and rows >= 50 * len(values)
    if kind.type != "STRING" or not few or any(len(v) > 40 or not v.isprintable() for v in values):
        return ()
    return tuple(sorted(values))


def _unit(name: str, kind: Kind, published: str | None) -> str | None:
    if kind.type in ("STRING", "BOOLEAN", "DATE", "TIMESTAMP"):
        return None
    return published or kind.unit or unit_of(name)


def _told(doubts: Sequence[Doubt], values: pa.ChunkedArray, lines: pa.ChunkedArray | None) -> tuple[str, ...]:
    return tuple(d.text + (_place(d.value, values, lines) if d.value is not None else "") for d in doubts)


def _place(value: str, values: pa.ChunkedArray, lines: pa.ChunkedArray | None) -> str:
    """Where a text stands in the sample."""
    import pyarrow.compute as pc

    shown = repr(value if len(value) <= _SHOWN else value[:_SHOWN] + "…")
    position = pc.index(values, value).as_py()
    if position < 0:
        position = pc.index(pc.utf8_trim_whitespace(values), value).as_py()
    if lines is None or position < 0:
        return f" ({shown})"
    return f" ({shown} in line {lines[position].as_py():,})"
