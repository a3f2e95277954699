"""An exchange whose sources and products a test declares, feeds and runs, on real files and the real engine."""

from __future__ import annotations

import csv
import io
import itertools
import os
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

# Tables are told apart by name, because one process has one catalogue for all of its tests.
_numbers = itertools.count(1)

def day(number: int) -> datetime:
    """The logical date of a day of the test."""
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
    """One source of a test."""

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
        """Put a file into the source's folder, old enough to be taken at once; rows become CSV of its columns."""
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

    def step(self, step: str, at: int | datetime = 0, run_id: str = "r") -> StepRun:
        """Run one step."""
        return run_step(step, self.name, at if isinstance(at, datetime) else day(at), run_id)

    def build(self, at: int | datetime = 0) -> StepRun:
        """Bronze, silver, and the checked version moved to what was built, without running expectations."""
        self.step("bronze", at)
        built = self.step("silver", at)
        if built.status == "succeeded":
            self.accept()
        return built

    def accept(self) -> None:
        """Let the checked version stand on the newest one, as a passed check does."""
        accept(self.table)

    def take(self, content: Any, at: int | datetime = 0, file: str | None = None) -> StepRun:
        """Land one file and build with it."""
        self.land(content, at, file)
        return self.build(at)

    def append_again(self, number: int) -> None:
        """The rows of the first day again, `number` days later by their column read_on, as a silver step leaves them.

        They are appended, recorded and let through: a day's commits without the steps that lead there.
        """
        moved = {"read_on": f"date_add(read_on, {number}) AS read_on"}
        rows = lake.read_table(self.table, 1).selectExpr(*[moved.get(c, c) for c in lake.columns_at(self.table)])
        recorded(
            "r", "silver", "source", self.name, day(number), self.table,
            lambda: StepOutcome(input={"landing_id": 1}, output_version=lake.append(self.table, rows)),
        )  # fmt: skip
        self.accept()

    def is_written_meanwhile(self, where: str, patch: pytest.MonkeyPatch) -> None:
        """Let somebody else commit those rows of the table again, once the next step has staged something."""
        stage = lake.Workspace.stage

        def late(*told: Any, **more: Any) -> str:
            patch.setattr(lake.Workspace, "stage", stage)
            view = stage(*told, **more)
            theirs = lake.read_table(self.table).where(where)
            theirs.write.format("delta").mode("append").save(str(lake.location(self.table)))
            return view

        patch.setattr(lake.Workspace, "stage", late)

    def rows(self, *more: str, where: str = "true") -> list[tuple[Any, ...]]:
        """Rows of the silver table's newest version, sorted: the contract's columns, then `more`."""
        return table_rows(self.table, *load_contract(self.table).names, *more, where=where)

    def quarantine(self, *columns: str) -> list[tuple[Any, ...]]:
        """Rows of quarantine: rule, column_name, value, or the columns wanted."""
        if not lake.exists(f"quarantine.{self.name}"):
            return []
        return table_rows(f"quarantine.{self.name}", *(columns or ("rule", "column_name", "value")))

    def bronze(self, *columns: str) -> list[tuple[Any, ...]]:
        """Rows of bronze."""
        return table_rows(f"bronze.{self.name}", *(columns or self.published))

    def last(self, step: str) -> Run:
        """Record of the newest run of a step."""
        return runs(self.name, step)[-1]

    def declare(self, columns: Columns | None = None, quality: list[Any] | None = None, **changed: Any) -> None:
        """Write the declarations again, changed."""
        self.settings |= changed
        if columns is not None:
            self.settings["columns"] = columns
        if quality is not None:
            self.settings["quality"] = quality
        self.exchange.write_source(self)


@dataclass
class Trial:
    """An exchange with nothing in it."""

    root: Path

    def source(
        self, columns: Columns, key: Sequence[str], mode: str = "merge", *, published: Sequence[str] = (),
        partition: Sequence[str] = (), name: str | None = None, **more: Any,
    ) -> Source:  # fmt: skip
        """Declare a source; its published columns are those of the contract unless told."""
        made = Source(self, name or f"s{next(_numbers)}", tuple(published or columns), mode, tuple(key))
        made.settings = {"columns": columns, "partition": tuple(partition), "quality": [], **more}
        self.write_source(made)
        return made

    def write_source(self, source: Source) -> None:
        """Write a source's declaration and contract as its settings say."""
        told = source.settings
        form = told.get("format", {})
        if form.get("type", "delimited") == "delimited":
            form = {"delimiter": ","} | form
        document = declaring.source(
            source.published,
            connector=told.get("connector") or {"type": "drop", "files": told.get("files", ["*"])},
            format=form,
            silver={"mode": source.mode},
            **{name: told[name] for name in ("reshape", "drop") if name in told},
        )
        declare_source(self.root, source.name, document, sql=told.get("sql", ""))
        declare_contract(self.root, source.table, declaring.contract(
            source.name, told["columns"], source.key, partition=told["partition"], quality=told["quality"],
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
    """Run a source's or product's steps in order until one finds nothing new; a product's release runs all the same."""
    is_source = name in load_catalog().sources
    done: list[StepRun] = []
    for step in steps_of("source" if is_source else "product"):
        done.append(run_step(step.name, name, logical_date, run_id))
        if done[-1].status == "unchanged" and step.name in ("land", "silver"):
            break
    return done


def build_product(name: str, at: int = 0) -> StepRun:
    """Gold, and the checked version moved to what was built."""
    built = run_step("gold", name, day(at), "r")
    if built.status == "succeeded":
        accept(f"gold.{name}")
    return built


def accept(table: str) -> None:
    """Let a table's checked version stand on its newest one, as a passed check does."""
    head = lake.version(table)
    assert head is not None
    built = last_build(table, head)
    assert built is not None, f"version {head} of {table} was built by no recorded run"
    told = built.input or {}
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
        table, head, check=check, landing_id=told.get("landing_id"),
        inputs=told if "tables" in told else None, run_id="r",
    )  # fmt: skip


def table_rows(table: str, *columns: str, where: str = "true", at: int | None = None) -> list[tuple[Any, ...]]:
    """Rows of a version of a table, sorted, as tuples of values; all columns but `_run_id` if none is named."""
    import pyarrow as pa

    frame = lake.read_table(table, at).where(where)
    names = columns or tuple(c for c in frame.columns if c != "_run_id")
    found: pa.Table = frame.toArrow()
    return sorted(zip(*(found.column(n).to_pylist() for n in names), strict=True), key=repr)


def checked_rows(table: str) -> list[tuple[Any, ...]]:
    """Rows of a table's checked version without `_run_id`."""
    stands = pointer(table)
    assert stands is not None
    return table_rows(table, at=stands.delta_version)


def files_of(table: str, at: int | None = None) -> dict[tuple[str | None, ...], frozenset[str]]:
    """Paths of a version's files by partition."""
    found: dict[tuple[str | None, ...], set[str]] = {}
    for file in lake.files(table, at):
        found.setdefault(tuple(v for _, v in file.partition), set()).add(file.path)
    return {k: frozenset(v) for k, v in found.items()}


def runs(name: str, step: str | None = None) -> list[Run]:
    """Records of a source's or product's runs, oldest first."""
    with reading() as db:
        return [r for r in db.query(Run).order_by(Run.id) if r.name == name and step in (None, r.step)]


def landings(name: str) -> list[Landing]:
    """What landed of a source, in order of arrival."""
    with reading() as db:
        return [x for x in db.query(Landing).order_by(Landing.id) if x.source == name]


def balanced(run: Run) -> bool:
    """Whether a silver run's counts add up."""
    parts = (
        run.rows_out,
        run.rows_quarantined,
        run.rows_duplicate,
        run.rows_dropped,
        run.rows_unchanged,
        run.rows_superseded,
    )
    return run.rows_in == sum(part or 0 for part in parts)
