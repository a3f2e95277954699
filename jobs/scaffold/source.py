"""Proposes a source from a sample of its data: source.yaml and the contract of its silver table."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from jobs import lake
from jobs.declared.columns import load_dictionary
from jobs.declared.connector import DropConnector
from jobs.declared.drafts import NO_ADDRESS, TO_BE_WRITTEN
from jobs.declared.format import Delimited, JsonDocument, JsonLines
from jobs.declared.published import is_plain, names_of
from jobs.errors import ExchangeError, RefusedFile
from jobs.scaffold.columns import Proposal, proposals
from jobs.scaffold.document import (
    Property,
    check_name,
    contract,
    flow,
    listed,
    scalar,
    written,
)
from jobs.scaffold.footer import footers
from jobs.scaffold.found import Found
from jobs.scaffold.key import Key, key_of
from jobs.scaffold.layout import form_of
from jobs.scaffold.sample import Sample, sample_of
from jobs.settings import settings
from jobs.steps import steps_of

if TYPE_CHECKING:
    import pyarrow as pa

    from jobs.declared.connector import PackageConnector

SAMPLE_ROWS = 500_000
_NAME = re.compile(r"`[^`]*`")
# The place of a row in its file, as the key of a table in which no columns name a row.
_PLACE = (
    Proposal("_file", "source_file", "STRING", "_file", True),
    Proposal("_row", "source_row", "BIGINT", "_row", True),
)


@dataclass(frozen=True)
class _Examined:
    """The findings from a sample."""

    sample: Sample
    found: Found
    rows: int
    is_whole: bool
    refused: tuple[str, ...]
    columns: tuple[Proposal, ...]
    key: Key

    @property
    def form(self) -> Delimited | JsonLines | JsonDocument:
        """The ``format:`` block."""
        return self.found.form


def new_source(sector: str, name: str, sample: str) -> list[str]:
    """Write source.yaml and a contract that work unedited on the sample; return the lines to show the engineer.

    Args:
        sector: folder under dags/sources.
        name: the source's name, not used by another source.
        sample: a file, or ``package:NAME==VERSION#member``.

    Raises:
        ExchangeError: a name is taken or invalid, or the sample cannot be read; then nothing is written.
    """
    check_name(sector, "sector")
    check_name(name, "source")
    root = settings().catalogue
    existing = sorted((root / "dags" / "sources").glob(f"*/{name}/source.yaml"))
    if existing:
        raise ExchangeError(
            f"source '{name}' exists already",
            where=str(existing[0]),
            expected="a new name",
            next_step="choose another name, or edit the existing file",
        )
    with sample_of(sample) as opened:
        examined = _examine(opened)
    declaration = root / "dags" / "sources" / sector / name / "source.yaml"
    terms = root / "expectations" / "silver" / f"{name}.yaml"
    with written({declaration: _declaration(name, examined), terms: _contract(sector, name, examined)}):
        _try_out(name)
    return [f"wrote {declaration}", f"wrote {terms}", *_report(sample, name, examined)]


def _examine(sample: Sample) -> _Examined:
    found = form_of(sample)
    form = found.form
    table, refused, is_whole, later = _records(sample, form)
    if later:
        found = replace(found, doubts=(*found.doubts, f"{later} come later in the file; _extra keeps them"))
    if not table.num_rows:
        reason = f": {refused[0]}" if refused else ""
        raise RefusedFile(f"no record could be read{reason}", where=sample.file_name, expected="good records")
    rows = table.select(list(form.columns))
    if all(column.null_count == len(column) or not _has_text(column) for column in rows.columns):
        raise ExchangeError(
            "every column has nothing but nulls and blanks",
            where=sample.file_name,
            expected="at least one column with values",
            next_step="use a sample with data in it",
        )
    if isinstance(form, Delimited):
        found = replace(found, drop=(*found.drop, *footers(rows.filter(found.kept(table)), form.columns)))
    delimiter = form.delimiter if isinstance(form, Delimited) else None
    kept = table.filter(found.kept(table)) if found.drop else table
    columns = proposals(
        kept.select(list(form.columns)),
        form.columns,
        load_dictionary(),
        delimiter=delimiter,
        lines=kept.column("_row"),
        units=found.units,
    )
    key = key_of(kept.select(list(form.columns)), columns)
    if not key.columns:
        columns = (*columns, *_PLACE)
        key = Key(tuple(c.name for c in _PLACE), key.copies)
    return _Examined(sample, found, kept.num_rows, is_whole, refused, columns, key)


def _has_text(column: pa.ChunkedArray) -> bool:
    import pyarrow.compute as pc

    return bool(pc.max(pc.binary_length(pc.utf8_trim_whitespace(column))).as_py())


def _records(sample: Sample, form: Delimited | JsonLines | JsonDocument) -> tuple[pa.Table, tuple[str, ...], bool, str]:
    """The sample's good records with their lines, the refused ones, whether these are all, and undeclared names."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from jobs.bronze.formats import read
    from jobs.bronze.formats.json_text import SHOWN_KEYS

    good: list[pa.RecordBatch] = []
    refused: list[str] = []
    count = 0
    is_whole = True
    later: dict[str, None] = {}
    for batch in read(sample.path, sample.file_name, form):
        bad = batch.filter(pc.is_valid(batch["_refused"])).select(["_row", "_refused"])
        refused += [f"row {r['_row']}: {r['_refused']}" for r in bad.to_pylist()]
        good.append(batch.filter(pc.is_null(batch["_refused"])).select([*form.columns, "_row"]))
        count += good[-1].num_rows
        for extra in pc.unique(batch["_extra"].drop_null()).to_pylist()[:SHOWN_KEYS]:
            later |= dict.fromkeys(json.loads(extra))
        if count > SAMPLE_ROWS:
            is_whole = False
            break
    schema = pa.schema([*((name, pa.string()) for name in form.columns), ("_row", pa.int64())])
    return pa.Table.from_batches(good, schema).slice(0, SAMPLE_ROWS), tuple(refused), is_whole, _shown(later)


def _shown(names: Iterable[str]) -> str:
    """The names that a record of the sample has and the beginning of the sample has not."""
    return ", ".join(repr(name) for name in names if name.strip() == name and name)[:200]


def _declaration(name: str, examined: _Examined) -> str:
    licence = {"id": "unknown", "url": NO_ADDRESS}
    rights = {"redistribution": "unknown", "basis": "public_collection", "evidence": TO_BE_WRITTEN}
    return "\n".join(
        [
            f"title: {scalar(_title(name))}",
            f"publisher: {flow({'name': TO_BE_WRITTEN, 'url': NO_ADDRESS})}",
            "owner: data-engineering",
            f"licence: {flow(licence)}",
            f"rights: {flow(rights)}",
            'cadence: "@daily"',
            f"connector: {flow(_connector(examined.sample.connector))}",
            "format:",
            *_format(examined.form),
            *([f"drop: {flow([dict(d) for d in examined.found.drop])}"] if examined.found.drop else []),
            "silver: {mode: merge}",
            "",
        ]
    )


def _connector(connector: DropConnector | PackageConnector) -> dict[str, Any]:
    if isinstance(connector, DropConnector):
        return {"type": "drop", "files": connector.files}
    pin = {"sha256": connector.sha256[0]} if connector.sha256 else {}
    named = {"type": "package", "package": connector.package, "version": connector.version}
    return named | pin | {"files": connector.files}


def _format(form: Delimited | JsonLines | JsonDocument) -> list[str]:
    lines = [f"  type: {form.type}"]
    options: dict[str, Any] = {"encoding": form.encoding} if form.encoding != "utf-8" else {}
    if isinstance(form, Delimited):
        options["delimiter"] = form.delimiter
        options |= {"quote": form.quote} if form.quote != '"' else {}
        options |= {"escape": form.escape} if form.escape else {}
        options |= {"blank_before_quote": True} if form.blank_before_quote else {}
        options |= {"ragged": True} if form.ragged else {}
        options |= {"header": False} if not form.header else {}
        options |= {"skip_lines": form.skip_lines} if form.skip_lines else {}
    if isinstance(form, JsonDocument) and form.record_path:
        options["record_path"] = form.record_path
    if isinstance(form, JsonDocument) and form.records != "objects":
        options["records"] = form.records
    lines += [f"  {k}: {scalar(v)}" for k, v in options.items()]
    lines.append(listed("columns", [_column(c) for c in form.columns]))
    if form.members:
        lines.append(listed("members", form.members))
    return lines


def _column(column: str) -> Any:
    return column if is_plain(column) else {"as": str(column), "published": list(names_of(column))}


def _contract(sector: str, name: str, examined: _Examined) -> str:
    key = examined.key.columns
    properties = [
        Property(
            name=c.name,
            type=c.type,
            description=_meaning(c),
            key_position=key.index(c.name) + 1 if c.name in key else None,
            required=c.required,
            transform=c.transform,
            unit=c.unit,
            classification=c.entry.classification if c.entry else None,
            enum=c.enum,
        )
        for c in examined.columns
    ]
    not_empty = {
        "name": "not_empty", "type": "library", "metric": "rowCount", "dimension": "completeness", "severity": "error",
        "mustBeGreaterThan": 0,
    }  # fmt: skip
    return contract(f"silver.{name}", sector, _title(name), properties, quality=[not_empty])


def _meaning(column: Proposal) -> str:
    if column in _PLACE:
        return "Name of the file that the row came in" if column.type == "STRING" else "Place of the row in its file"
    if column.entry:
        return column.entry.description
    published = names_of(column.published)[0]
    return TO_BE_WRITTEN + (f' (published as "{published}")' if published != column.name else "")


def _try_out(name: str) -> None:
    """Load the new files as the steps will, and compile one column of each kind of transformLogic."""
    from jobs.declared.catalog import load_sources
    from jobs.declared.compile import compile_rules
    from jobs.declared.contract import load_contract
    from jobs.silver.split import Split

    source = load_sources().source(name)
    terms = load_contract(source.table)
    compile_rules(terms)
    kinds = {(c.type, _NAME.sub("", c.transform or "")): c for c in terms.columns}
    # Two thousand columns would take minutes.
    _ = Split(source, replace(terms, columns=tuple(kinds.values())), lake.Workspace("proposal")).refusals


def _report(given: str, name: str, examined: _Examined) -> list[str]:
    form, sample, key = examined.form, examined.sample, examined.key
    layout = f"{form.type}, {form.encoding}"
    if isinstance(form, Delimited):
        layout += f", {'header' if form.header else examined.found.by_place}, delimiter {form.delimiter!r}"
        layout += f", {form.skip_lines} lines skipped" if form.skip_lines else ""
    lines = [f"found: {layout}; {examined.rows:,} rows read; key {', '.join(key.columns)}"]
    if not examined.is_whole:
        lines.append(f"only the first {examined.rows:,} rows were looked at")
    if sample.others:
        lines.append(f"left out of the archive: {', '.join(sample.others[:5])}")
    if examined.refused:
        lines.append(f"{len(examined.refused):,} records would go to quarantine; the first is {examined.refused[0]}")
    if key.copies:
        lines.append(
            f"{key.copies:,} of {examined.rows:,} rows are copies, equal in every column to an earlier row;"
            " silver keeps one of each"
        )
    named = [c.name for c in examined.columns if c.entry]
    if named:
        lines.append(f"meaning, type and unit from the column dictionary: {', '.join(named)}")
    lines += [f"{c.name}: {effect}" for c in examined.columns for effect in c.effects]
    lines += [f"rows with {d['values'][0]!r} in {d['column']} are dropped: {d['reason']}" for d in examined.found.drop]
    lines += [f"look at the layout: {doubt}" for doubt in examined.found.doubts]
    lines += [f"look at {c.name}: {doubt}" for c in examined.columns for doubt in c.doubts]
    lines += [f"look at the key: {doubt}" for doubt in key.doubts]
    if key.columns == tuple(c.name for c in _PLACE):
        lines.append("look at the key: no columns name a row, so its place in the file does; a corrected file replaces"
                     " its rows only under the same name")  # fmt: skip
    lines += _next_steps(given, name, examined.sample.connector)
    return lines


def _next_steps(given: str, name: str, connector: DropConnector | PackageConnector) -> list[str]:
    steps: Sequence[str] = (
        "in source.yaml: title, publisher, licence, cadence, silver mode",
        "in source.yaml: rights; nothing is released while redistribution is unknown",
        "in the contract: each column's meaning, class, unit and range, and the table's freshness",
    )
    folder = shlex.quote(str(settings().drop / name))
    fetch = [f"cp {shlex.quote(given)} {folder}/"] if isinstance(connector, DropConnector) else []
    commands = [f"exchange {step.name} {name}" for step in steps_of("source")]
    if fetch:
        fetch.insert(0, f"mkdir -p {folder}")
    return ["edit next:", *[f"  {s}" for s in steps], "then try it:", *[f"  {c}" for c in (*fetch, *commands)]]


def _title(name: str) -> str:
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]
