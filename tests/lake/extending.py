"""Packages of a partner that extend the exchange, installed as pip does: a module and its entry points."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

import pytest

CONNECTOR = '''
    """Fetches a file that it writes itself, so a test needs no publisher."""

    from typing import Literal

    from jobs.declared.connector import Connector


    class Spelled(Connector):
        """A file whose lines are in the declaration."""

        type: Literal["spelled"] = "spelled"
        lines: tuple[str, ...]


    MODEL = Spelled


    def fetch(connector, source, scratch):
        from jobs.land.fetched import Fetched

        path = scratch / "spelled.txt"
        path.write_text("\\n".join(connector.lines))
        yield Fetched(path, path.name, f"spelled:{source}")
'''

FORMAT = '''
    """Text with fixed-width cells."""

    from typing import Literal

    from jobs.declared.format import Format


    class FixedWidth(Format):
        """Each column has a width in characters."""

        type: Literal["fixed_width"] = "fixed_width"
        widths: tuple[int, ...]


    MODEL = FixedWidth


    def read(member, form):
        import pyarrow as pa

        from jobs.bronze.formats.batches import Batches, RefusedRecord

        batches = Batches(form.columns, member.name)
        rows, refused = [], []
        for number, line in enumerate(member.stream.read(1 << 20).decode(form.encoding).splitlines(), start=1):
            if len(line) != sum(form.widths):
                refused.append(RefusedRecord(number, f"wrong_length: {len(line)}", line))
                continue
            starts = [sum(form.widths[:i]) for i in range(len(form.widths))]
            cells = [line[start : start + width].strip() for start, width in zip(starts, form.widths)]
            rows.append((number, cells))
        if rows:
            columns = [pa.array(cells, pa.string()) for cells in zip(*(cells for _, cells in rows))]
            yield batches.good(columns, None, pa.array([number for number, _ in rows], pa.int64()))
        if refused:
            yield batches.refused(refused)
'''

RULE = '''
    """No value of a column may be an outlier."""

    from jobs.declared.rules import Kind

    KIND = Kind("at_most_times_median", "value", shows_values=True)


    def compile(entry):
        times = entry.says["implementation"].get("times")
        if not isinstance(times, (int, float)):
            raise entry.mistake(f"times {times}", "implementation", "times", expected="a number")
        return entry.rule(KIND, entry.columns, f"no {entry.column.name} above {times} times the median", times=times)


    def expectation(rule):
        from jobs.check.expectations import ExpectQueryResultToBe

        name = rule.columns[0]
        query = f"SELECT max({name}) / percentile({name}, 0.5) FROM ${{table}}"
        return ExpectQueryResultToBe, {"query": query, "sign": "<=", "limit": rule.parameters["times"]}
'''

STEP = '''
    """Counts the rows of a source's checked version."""

    from jobs.steps import Step

    STEP = Step("tally", ("source",), "Count the rows that readers see.", after="check")


    def run(source, logical_date, run_id):
        from jobs import lake
        from jobs.lake.pointers import checked
        from jobs.registry.runs import Counts, StepOutcome

        rows = lake.read_table(source.table, checked(source.table).delta_version).count()
        return StepOutcome(counts=Counts(rows_in=rows), message=f"{rows} rows on {logical_date:%Y-%m-%d}")
'''


@dataclass(frozen=True)
class Site:
    """A folder on the import path for installed packages."""

    folder: Path

    def install(self, group: str, name: str, module: str) -> tuple[Path, ...]:
        """Install a package that adds one extension of this name; returns the package's own files."""
        package = f"partner_{name}"
        code = self.folder / f"{package}.py"
        code.write_text(dedent(module))
        entry_points = self.folder / f"{package}-1.0.dist-info" / "entry_points.txt"
        entry_points.parent.mkdir()
        entry_points.write_text(f"[{group}]\n{name} = {package}\n")
        # Airflow reads installed packages in its own way, which needs this file.
        entry_points.with_name("METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        return code, entry_points


def site_in(folder: Path, patch: pytest.MonkeyPatch) -> Site:
    """An empty site folder, on the import path for the length of a test."""
    folder.mkdir()
    patch.syspath_prepend(str(folder))
    for name in [name for name in sys.modules if name.startswith("partner_")]:
        patch.delitem(sys.modules, name)
    return Site(folder)
