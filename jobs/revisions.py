"""Keeps every version of a row with the time it became known, so that a table can be read as it was known on a date."""

from __future__ import annotations

from jobs import lake
from jobs.contract import Contract
from jobs.join_silver import Change, differs, touched
from jobs.rules import quote
from jobs.spark import connect
from jobs.split import ORIGIN

CURRENT = "_superseded_at IS NULL"


def revision_changes(table: str, good: str, contract: Contract, *, rebuild: bool, rows: int) -> Change:
    """Compare a batch with the revisions that a table holds; an instant's rows may arrive in any order.

    A row equal to the version known before it is unchanged; a differing one becomes a new version and closes the one
    before. A row that arrives late takes its place in between.
    """
    spark = connect()
    columns = ", ".join(map(quote, (*contract.names, *ORIGIN)))
    spark.sql(good).createOrReplaceTempView("batch")
    instants = [r["d"] for r in spark.sql("SELECT DISTINCT _logical_date AS d FROM batch").collect()]
    empty = rebuild or lake.rows(table) == 0
    if empty and len(instants) <= 1:
        first = f"SELECT {columns}, _logical_date AS _known_at, CAST(NULL AS TIMESTAMP) AS _superseded_at FROM batch"
        return Change(first, "replace" if rebuild else "append", rows)
    where = "false" if empty else (touched(table, contract, "batch") or "false")
    known = f"(SELECT * FROM delta.`{lake.location(table)}` t WHERE {where})" if not empty else None
    if known and len(instants) == 1 and not _later_known(known, instants[0]):
        return _in_order(known, contract, where)
    return _out_of_order(known, contract, where, rebuild=rebuild)


def _later_known(known: str, instant: object) -> bool:
    newest = connect().sql(f"SELECT max(_known_at) AS d FROM {known}").collect()[0]["d"]
    return newest is not None and newest >= instant


def _in_order(known: str, contract: Contract, where: str) -> Change:
    """The usual case: everything in the batch became known after everything in the table."""
    spark = connect()
    same = " AND ".join(f"t.{quote(k)} = g.{quote(k)}" for k in contract.key)
    new = ", ".join(f"g.{quote(c)}" for c in (*contract.names, *ORIGIN))
    lake.stage(
        "compared",
        f"SELECT {new}, CASE WHEN t._known_at IS NULL THEN 'new' WHEN {differs(contract, 't', 'g')} THEN 'changed'"
        f" ELSE 'unchanged' END AS verdict FROM batch g LEFT JOIN (SELECT * FROM {known} WHERE {CURRENT}) t ON {same}",
    )
    counts = {r["verdict"]: r["n"] for r in spark.sql("SELECT verdict, count(*) AS n FROM compared GROUP BY verdict").collect()}
    columns = ", ".join(map(quote, (*contract.names, *ORIGIN)))
    added = (
        f"SELECT {columns}, _logical_date AS _known_at, CAST(NULL AS TIMESTAMP) AS _superseded_at"
        " FROM compared WHERE verdict IN ('new', 'changed')"
    )
    written = counts.get("new", 0) + counts.get("changed", 0)
    if not counts.get("changed"):
        return Change(added, "append", written, unchanged=counts.get("unchanged", 0))
    old = ", ".join(f"t.{quote(c)}" for c in (*contract.names, *ORIGIN))
    closed = (
        f"SELECT {old}, t._known_at, g._logical_date AS _superseded_at FROM (SELECT * FROM {known} WHERE {CURRENT}) t"
        f" JOIN compared g ON {same} WHERE g.verdict = 'changed'"
    )
    return Change(f"{added} UNION ALL {closed}", "merge", written, unchanged=counts.get("unchanged", 0), where=where)


def _out_of_order(known: str | None, contract: Contract, where: str, *, rebuild: bool) -> Change:
    """Some of the batch became known before some of the table: the touched keys' whole chains are laid anew."""
    spark = connect()
    key = ", ".join(map(quote, contract.key))
    columns = ", ".join(map(quote, (*contract.names, *ORIGIN)))
    chain = f"SELECT {columns}, _logical_date AS _known_at, CAST(NULL AS TIMESTAMP) AS _old_end, 1 AS _arrives FROM batch"
    if known:
        same = " AND ".join(f"t.{quote(k)} = g.{quote(k)}" for k in contract.key)
        old = ", ".join(f"t.{quote(c)}" for c in (*contract.names, *ORIGIN))
        chain += (
            f" UNION ALL SELECT {old}, t._known_at, t._superseded_at, 0 FROM {known} t"
            f" LEFT SEMI JOIN batch g ON {same}"
        )
    others = [c for c in contract.names if c not in contract.key]
    content = "to_json(named_struct(" + ", ".join(f"'{c}', {quote(c)}" for c in others) + "))" if others else "''"
    # At one instant the batch's row wins over the table's, so that loading a date again corrects it.
    ranked = (
        f"SELECT *, {content} AS _content, row_number() OVER (PARTITION BY {key}, _known_at ORDER BY _arrives DESC) AS _nth"
        f" FROM ({chain})"
    )
    compared = (
        f"SELECT *, lag(_content) OVER (PARTITION BY {key} ORDER BY _known_at) AS _before FROM ({ranked}) WHERE _nth = 1"
    )
    kept = f"SELECT * FROM ({compared}) WHERE _before IS NULL OR _before <> _content OR _arrives = 0"
    ended = f"SELECT *, lead(_known_at) OVER (PARTITION BY {key} ORDER BY _known_at) AS _end FROM ({kept})"
    lake.stage("chains", ended)
    arrived = spark.sql("SELECT count(*) AS n FROM batch").collect()[0]["n"]
    written = spark.sql("SELECT count_if(_arrives = 1) AS n FROM chains").collect()[0]["n"]
    rows = (
        f"SELECT {columns}, _known_at, _end AS _superseded_at FROM chains WHERE _arrives = 1 OR NOT (_end <=> _old_end)"
    )
    how = "merge" if known else ("replace" if rebuild else "append")
    return Change(rows, how, written, unchanged=arrived - written, where=where)
