"""Commands that show a table's checks and a source's quarantined rows."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.cli.names import declared_source, declared_table
from jobs.cli.options import AsJson, Limit, TableName
from jobs.cli.show import document, line, note, table
from jobs.errors import ExchangeError, NotFound

if TYPE_CHECKING:
    from jobs.registry.models import Check


def quality(
    name: TableName,
    history: Annotated[int, typer.Option("--history", min=1, help="How many checks to show.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Show a table's latest check (grade and why, score by dimension, failed rules with an example) and its history."""
    from jobs.declared.contract import load_contract
    from jobs.lake.partitions import whole_table_read
    from jobs.registry.checks import latest_checks

    full = declared_table(name)
    checks = latest_checks(full, history)
    if not checks:
        raise NotFound(
            f"{full} has not been checked",
            next_step=f"exchange check {full} once it is built; see exchange runs --name {full.split('.')[1]}",
        )
    latest = _described(checks[0]) | _rules(checks[0])
    past = [_described(c) for c in checks]
    remark = whole_table_read(load_contract(full))
    if as_json:
        document({"table": full, "latest": latest, "history": past, "remarks": [remark] if remark else []})
        return
    verdict = "passed" if latest["passed"] else "FAILED, readers still see the previous version"
    line(f"{full} version {latest['delta_version']}: grade {latest['grade']}, score {latest['score']:.1f}, {verdict}")
    table(
        ("dimension", "score"),
        [(d, "not assessed" if s is None else s) for d, s in latest["dimensions"].items()],
    )
    for reason in latest["reasons"]:
        line(f"why: {reason}")
    for failed in latest["failed"]:
        line(f"failed: {failed['message']}")
    for message in latest["not_readable"]:
        note(message)
    if remark:
        note(remark)
    line("")
    table(
        ("checked", "version", "passed", "grade", "score", "failed rules"),
        [(p["checked_at"], p["delta_version"], p["passed"], p["grade"], p["score"], p["failed_rules"]) for p in past],
    )


def quarantine(name: TableName, limit: Limit = 20, as_json: AsJson = False) -> None:
    """Show a source's quarantined rows: how many each rule refused, and rows with their origin."""
    from jobs import lake

    source = declared_source(name)
    full = f"quarantine.{source}"
    summary: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    if lake.exists(full):
        summary, rows = _refused(full, limit)
    if as_json:
        document({"table": full, "rules": summary, "rows": rows})
        return
    if not summary:
        note(f"no row of {source} is in quarantine")
        return
    line(f"{full}: {sum(r['rows'] for r in summary):,} rows refused")
    table(("rule", "columns", "rows", "files"), [(r["rule"], r["columns"], r["rows"], r["files"]) for r in summary])
    line("")
    shown = ("rule", "column_name", "value", "file", "row", "record")
    table([c.replace("_", " ") for c in shown], [[r[c] for c in shown] for r in rows])


def _described(check: Check) -> dict[str, Any]:
    return {
        "delta_version": check.delta_version,
        "passed": check.passed,
        "grade": check.grade,
        "score": check.score,
        "dimensions": check.dimensions,
        "checked_at": check.checked_at,
        "scope": (check.scope or {}).get("where"),
        "failed_rules": len((check.scope or {}).get("failed") or []),
        "result_sha256": check.result_sha256,
        "contract_sha256": check.contract_digest,
        "run_id": check.run_id,
    }


def _rules(check: Check) -> dict[str, Any]:
    """Return every rule with its result from the evidence, why the grade follows, and the messages of failed rules."""
    from jobs.check import read_evidence
    from jobs.check.grade import explain

    messages = [str(f) for f in (check.scope or {}).get("failed") or []]
    rules: list[dict[str, Any]] = []
    reasons: tuple[str, ...] = ()
    problems = []
    try:
        evidence = read_evidence(check.result_sha256)
        rules, reasons = evidence["rules"], explain(evidence)
    except ExchangeError as error:
        problems.append(f"the evidence of this check cannot be shown: {error}")
    fields = ("id", "dimension", "severity", "description", "success", "unexpected", "observed", "error")
    by_id = {r["id"]: {f: r.get(f) for f in fields} for r in rules}
    named = [(message.split(" ", 1)[0], message) for message in messages]
    failed = [by_id.get(rule, {"id": rule}) | {"message": message} for rule, message in named]
    return {
        "failed": failed, "rules": list(by_id.values()), "reasons": list(reasons), "not_readable": problems,
    }  # fmt: skip


def _refused(full: str, limit: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    from jobs import lake
    from jobs.lake import connect

    with lake.workspace("refused rows", uuid.uuid4().hex) as work:
        rows = work.show("rows", lake.read_table(full))
        spark = connect()
        counted = spark.sql(
            f"SELECT rule, column_name AS columns, count(*) AS rows, count(DISTINCT _file) AS files FROM {rows}"
            " GROUP BY rule, column_name ORDER BY rows DESC, rule, columns"
        )
        # Rules take turns, so that a rare refusal is not hidden behind a thousand of another kind.
        examples = spark.sql(
            "SELECT rule, column_name, value, record, _file AS file, _row AS row,"
            " left(_landing_sha256, 64) AS landing_sha256, CAST(_logical_date AS STRING) AS logical_date"
            " FROM (SELECT *, row_number() OVER"
            f" (PARTITION BY rule, column_name ORDER BY _logical_date DESC, _file, _row) AS nth FROM {rows})"
            f" ORDER BY nth, rule, column_name LIMIT {limit}"
        )
        return [r.asDict() for r in counted.collect()], [r.asDict() for r in examples.collect()]
