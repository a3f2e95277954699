"""Proposes a source from a sample of its data: source.yaml and the contract of its silver table."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jobs import lake
from jobs.declared.columns import load_dictionary
from jobs.declared.connector import DropConnector
from jobs.declared.drafts import NO_ADDRESS, TO_BE_WRITTEN
from jobs.declared.format import Delimited, JsonDocument, JsonLines
from jobs.errors import ExchangeError, RefusedFile
from jobs.scaffold.columns import Proposal, is_measure, key_of, proposals
from jobs.scaffold.document import (
    Property,
    check_name,
    contract,
    flow,
    listed,
    scalar,
    written,
)
from jobs.scaffold.layout import form_of
from jobs.scaffold.sample import Sample, sample_of
from jobs.settings import settings
from jobs.steps import steps_of

if TYPE_CHECKING:
    import pyarrow as pa

    from jobs.declared.connector import PackageConnector

SAMPLE_ROWS = 100_000


@dataclass(frozen=True)
class _Examined:
    """The findings from a sample."""

    sample: Sample
    form: Delimited | JsonLines | JsonDocument
    rows: pa.Table
    refused: tuple[str, ...]
    columns: tuple[Proposal, ...]
    key: tuple[str, ...]


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
    form = form_of(sample)
    rows, refused = _records(sample, form)
    if not rows.num_rows:
        reason = f": {refused[0]}" if refused else ""
        raise RefusedFile(f"no record could be read{reason}", where=sample.file_name, expected="good records")
    columns = proposals(rows, form.columns, load_dictionary())
    key = key_of(rows, columns) or tuple(c.name for c in columns if c.required)
    if not key:
        raise ExchangeError(
            "every column has nulls, so no key identifies a row",
            where=sample.file_name,
            expected="at least one column without nulls",
            next_step="write the declaration by hand, with a silver.sql that numbers the rows",
        )
    return _Examined(sample, form, rows, refused, columns, key)


def _records(sample: Sample, form: Delimited | JsonLines | JsonDocument) -> tuple[pa.Table, tuple[str, ...]]:
    import pyarrow as pa
    import pyarrow.compute as pc

    from jobs.bronze.formats import read

    good: list[pa.RecordBatch] = []
    refused: list[str] = []
    count = 0
    for batch in read(sample.path, sample.file_name, form):
        bad = batch.filter(pc.is_valid(batch["_refused"])).select(["_row", "_refused"])
        refused += [f"row {r['_row']}: {r['_refused']}" for r in bad.to_pylist()]
        good.append(batch.filter(pc.is_null(batch["_refused"])).select(list(form.columns)))
        count += good[-1].num_rows
        if count >= SAMPLE_ROWS:
            break
    schema = pa.schema([(name, pa.string()) for name in form.columns])
    return pa.Table.from_batches(good, schema).slice(0, SAMPLE_ROWS), tuple(refused)


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
        options |= {"header": False} if not form.header else {}
        options |= {"skip_lines": form.skip_lines} if form.skip_lines else {}
    if isinstance(form, JsonDocument) and form.record_path:
        options["record_path"] = form.record_path
    lines += [f"  {k}: {scalar(v)}" for k, v in options.items()]
    lines.append(listed("columns", form.columns))
    if form.members:
        lines.append(listed("members", form.members))
    return lines


def _contract(sector: str, name: str, examined: _Examined) -> str:
    properties = [
        Property(
            name=c.name,
            type=c.type,
            description=_meaning(c),
            key_position=examined.key.index(c.name) + 1 if c.name in examined.key else None,
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
    if column.entry:
        return column.entry.description
    return TO_BE_WRITTEN + (f' (published as "{column.published}")' if column.published != column.name else "")


def _try_out(name: str) -> None:
    """Load the new files as the steps will."""
    from jobs.declared.catalog import load_sources
    from jobs.declared.compile import compile_rules
    from jobs.declared.contract import load_contract
    from jobs.silver.split import Split

    source = load_sources().source(name)
    terms = load_contract(source.table)
    compile_rules(terms)
    _ = Split(source, terms, lake.Workspace("proposal")).typed


def _report(given: str, name: str, examined: _Examined) -> list[str]:
    form, sample = examined.form, examined.sample
    layout = f"{form.type}, {form.encoding}"
    if isinstance(form, Delimited):
        layout += f", {'header' if form.header else 'no usable header'}, delimiter {form.delimiter!r}"
        layout += f", {form.skip_lines} lines skipped" if form.skip_lines else ""
    lines = [f"found: {layout}; {examined.rows.num_rows:,} rows read; key {', '.join(examined.key)}"]
    if sample.others:
        lines.append(f"left out of the archive: {', '.join(sample.others[:5])}")
    if examined.refused:
        lines.append(f"{len(examined.refused):,} records would go to quarantine; the first is {examined.refused[0]}")
    named = [c.name for c in examined.columns if c.entry]
    if named:
        lines.append(f"meaning, type and unit from the column dictionary: {', '.join(named)}")
    lines += [f"look at {c.name}: {c.doubt}" for c in examined.columns if c.doubt]
    figures = [c.name for c in examined.columns if c.name in examined.key and is_measure(c)]
    if figures:
        lines.append(f"look at the key: {', '.join(figures)} is a figure; rows that differ only there need review")
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
