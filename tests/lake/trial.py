"""An exchange for tests: declares sources and products, lands files and runs steps, on real files and a real engine."""

from __future__ import annotations

import csv
import io
import itertools
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from jobs import lake
from jobs.declared.catalog import load_catalog
from jobs.declared.contract import load_contract
from jobs.flow import StepRun, run_step
from jobs.lake.pointers import move, pointer
from jobs.registry import reading
from jobs.registry.models import Check, Landing, Run
from jobs.registry.runs import StepOutcome, last_build, recorded
from jobs.settings import settings
from jobs.steps import steps_of
from tests import declaring
from tests.declaring import Columns, declare_contract, declare_product, declare_source, write

FIRST = datetime(2026, 1, 1, tzinfo=UTC)
BOOKKEEPING = ("_landing_sha256", "_file", "_row", "_logical_date")

# Every table gets its own name: all tests of a process share one engine catalogue.
_numbers = itertools.count(1)


def day(number: int) -> datetime:
    """The logical date of a test's day; day 0 is `FIRST`."""
    return FIRST + timedelta(days=number)


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV with a header; None is an empty cell."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([["" if cell is None else cell for cell in row] for row in rows])
    return out.getvalue()


@dataclass
class Source:
    """A source of a trial exchange."""

    exchange: Trial
    name: str
    published: tuple[str, ...]
    mode: str
    key: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def table(self) -> str:
        return f"silver.{self.name}"

    def drop(self, content: str | bytes | Iterable[Sequence[Any]], file: str | None = None) -> Path:
        """Put a file into the source's drop folder, old enough to be landed; rows are written as CSV."""
        if not isinstance(content, str | bytes):
            content = csv_text(self.published, content)
        path = settings().drop / self.name / (file or f"f{next(_numbers)}.csv")
        write(path, content)
        past = datetime.now(UTC).timestamp() - 3600 + next(_numbers)
        os.utime(path, (past, past))
        return path

    def land(self, content: Any, at: int | datetime = 0, file: str | None = None) -> StepRun:
        """Drop one file and land it under a logical date."""
        self.drop(content, file)
        return self.step("land", at)

    def step(self, step: str, at: int | datetime = 0, run_id: str = "r", **options: str) -> StepRun:
        """Run one step."""
        return run_step(step, self.name, at if isinstance(at, datetime) else day(at), run_id, options)

    def build(self, at: int | datetime = 0, **options: str) -> StepRun:
        """Run bronze and silver, then accept the new version without running expectations."""
        self.step("bronze", at)
        silver = self.step("silver", at, **options)
        if silver.status == "succeeded":
            self.accept()
        return silver

    def accept(self) -> None:
        """Move the checked version to the newest one, as a passed check does."""
        accept(self.table)

    def take(self, content: Any, at: int | datetime = 0, file: str | None = None) -> StepRun:
        """Land one file and build."""
        self.land(content, at, file)
        return self.build(at)

    def append_again(self, number: int) -> None:
        """Append the rows of version 1 again, with read_on `number` days later, as a silver step would.

        The append is recorded and accepted: a day's commits without the cost of its steps.
        """
        moved = {"read_on": f"date_add(read_on, {number}) AS read_on"}
        rows = lake.read_table(self.table, 1).selectExpr(*[moved.get(c, c) for c in lake.columns_at(self.table)])
        recorded(
            "r", "silver", "source", self.name, day(number), self.table,
            lambda: StepOutcome(input={"landing_id": 1}, output_version=lake.append(self.table, rows)),
        )  # fmt: skip
        self.accept()

    def commit_during_next_step(self, where: str, patch: pytest.MonkeyPatch) -> None:
        """Let another writer append a copy of the matching rows, right after the next step has staged something."""
        stage = lake.Workspace.stage

        def stage_then_commit(*arguments: Any, **options: Any) -> str:
            patch.setattr(lake.Workspace, "stage", stage)
            view = stage(*arguments, **options)
            copies = lake.read_table(self.table).where(where)
            copies.write.format("delta").mode("append").save(str(lake.location(self.table)))
            return view

        patch.setattr(lake.Workspace, "stage", stage_then_commit)

    def rows(self, *more: str, where: str = "true") -> list[tuple[Any, ...]]:
        """Rows of the silver table's newest version, sorted: the contract's columns, then `more`."""
        return table_rows(self.table, *load_contract(self.table).names, *more, where=where)

    def quarantine(self, *columns: str) -> list[tuple[Any, ...]]:
        """Rows of quarantine: rule, column_name and value unless other columns are given."""
        if not lake.exists(f"quarantine.{self.name}"):
            return []
        return table_rows(f"quarantine.{self.name}", *(columns or ("rule", "column_name", "value")))

    def bronze(self, *columns: str) -> list[tuple[Any, ...]]:
        """Rows of bronze: the published columns unless others are given."""
        return table_rows(f"bronze.{self.name}", *(columns or self.published))

    def last(self, step: str) -> Run:
        """The record of a step's newest run."""
        return runs(self.name, step)[-1]

    def declare(self, columns: Columns | None = None, quality: list[Any] | None = None, **changes: Any) -> None:
        """Write the declarations again with changes."""
        self.settings |= changes
        if columns is not None:
            self.settings["columns"] = columns
        if quality is not None:
            self.settings["quality"] = quality
        self.exchange.write_source(self)


@dataclass
class Trial:
    """An exchange that starts empty."""

    root: Path

    def source(
        self, columns: Columns, key: Sequence[str], mode: str = "merge", *, published: Sequence[str] = (),
        partition: Sequence[str] = (), name: str | None = None, **more: Any,
    ) -> Source:  # fmt: skip
        """Declare a source; its published columns are those of the contract unless given."""
        source = Source(self, name or f"s{next(_numbers)}", tuple(published or columns), mode, tuple(key))
        source.settings = {"columns": columns, "partition": tuple(partition), "quality": [], **more}
        self.write_source(source)
        return source

    def write_source(self, source: Source) -> None:
        """Write a source's declaration and contract from its settings."""
        fields = source.settings
        format_fields = fields.get("format", {})
        if format_fields.get("type", "delimited") == "delimited":
            format_fields = {"delimiter": ","} | format_fields
        document = declaring.source(
            source.published,
            connector=fields.get("connector") or {"type": "drop", "files": fields.get("files", ["*"])},
            format=format_fields,
            silver={"mode": source.mode, **fields.get("silver", {})},
            **{name: fields[name] for name in ("reshape", "drop", "zones") if name in fields},
        )
        declare_source(self.root, source.name, document, sql=fields.get("sql", ""))
        declare_contract(self.root, source.table, declaring.contract(
            source.name, fields["columns"], source.key, partition=fields["partition"], quality=fields["quality"],
        ))  # fmt: skip

    def product(
        self, columns: Columns, key: Sequence[str], query: str, *, partition: str | None = None,
        quality: list[Any] | None = None, name: str | None = None,
    ) -> str:  # fmt: skip
        """Declare a product; returns its name."""
        name = name or f"p{next(_numbers)}"
        document = declaring.product(**({"partition": partition} if partition else {}))
        declare_product(self.root, name, document, query)
        declare_contract(self.root, f"gold.{name}", declaring.contract(
            name, columns, key, partition=(partition,) if partition else (), quality=quality or (),
        ))  # fmt: skip
        return name


def run_steps(name: str, logical_date: datetime, run_id: str) -> list[StepRun]:
    """Run the steps of a source or product in order, up to an unchanged land or silver step."""
    is_source = name in load_catalog().sources
    results: list[StepRun] = []
    for step in steps_of("source" if is_source else "product"):
        results.append(run_step(step.name, name, logical_date, run_id))
        if results[-1].status == "unchanged" and step.name in ("land", "silver"):
            break
    return results


def build_product(name: str, at: int = 0) -> StepRun:
    """Run gold, then accept the new version."""
    gold = run_step("gold", name, day(at), "r")
    if gold.status == "succeeded":
        accept(f"gold.{name}")
    return gold


def accept(table: str) -> None:
    """Move a table's checked version to its newest one, as a passed check does."""
    head = lake.version(table)
    assert head is not None
    build = last_build(table, head)
    assert build is not None, f"no recorded run built version {head} of {table}"
    build_input = build.input or {}
    check = Check(
        table_name=table,
        delta_version=head,
        contract_digest=load_contract(table).digest,
        suite_digest="",
        result_sha256="",
        passed=True,
        score=100.0,
        grade="A",
        dimensions={},
        scope={},
        run_id="r",
        checked_at=datetime.now(UTC),
    )
    move(
        table, head, check=check, landing_id=build_input.get("landing_id"),
        inputs=build_input if "tables" in build_input else None, run_id="r",
    )  # fmt: skip


def table_rows(table: str, *columns: str, where: str = "true", at: int | None = None) -> list[tuple[Any, ...]]:
    """Rows of a version of a table as sorted tuples; all columns but `_run_id` if none is named."""
    import pyarrow as pa

    frame = lake.read_table(table, at).where(where)
    names = columns or tuple(c for c in frame.columns if c != "_run_id")
    rows: pa.Table = frame.toArrow()
    return sorted(zip(*(rows.column(n).to_pylist() for n in names), strict=True), key=repr)


def checked_rows(table: str) -> list[tuple[Any, ...]]:
    """Rows of a table's checked version without `_run_id`."""
    existing = pointer(table)
    assert existing is not None
    return table_rows(table, at=existing.delta_version)


def files_of(table: str, at: int | None = None) -> dict[tuple[str | None, ...], frozenset[str]]:
    """Paths of a version's files, by partition."""
    paths: dict[tuple[str | None, ...], set[str]] = {}
    for file in lake.files(table, at):
        paths.setdefault(tuple(v for _, v in file.partition), set()).add(file.path)
    return {k: frozenset(v) for k, v in paths.items()}


def runs(name: str, step: str | None = None) -> list[Run]:
    """Records of the runs of a source or product, oldest first."""
    with reading() as db:
        return [r for r in db.query(Run).order_by(Run.id) if r.name == name and step in (None, r.step)]


def landings(name: str) -> list[Landing]:
    """Landings of a source in order of arrival."""
    with reading() as db:
        return [x for x in db.query(Landing).order_by(Landing.id) if x.source == name]


def balanced(run: Run) -> bool:
    """Whether the counts of a silver run add up."""
    parts = (
        run.rows_out,
        run.rows_quarantined,
        run.rows_duplicate,
        run.rows_dropped,
        run.rows_unchanged,
        run.rows_superseded,
    )
    return run.rows_in == sum(part or 0 for part in parts)


def age(table: str, days: float = 30) -> None:
    """Make every file in a table's folder some days old."""
    then = time.time() - days * 86_400
    for path in lake.location(table).rglob("*"):
        if path.is_file():
            os.utime(path, (then, then))
