"""Finds rows of the checked version that a rebuild would no longer have: a person decides whether they may leave."""

from __future__ import annotations

from dataclasses import dataclass

from jobs import lake
from jobs.declared.contract import Contract
from jobs.declared.sql import literal, quote
from jobs.errors import AcceptanceNeeded
from jobs.lake import connect
from jobs.silver.split import FILE_RULE

_SHOWN = 3
_PLACE = ("_landing_sha256", "_file", "_row")
_SAME_PLACE = " AND ".join(f"{{0}}.{c} = {{1}}.{c}" for c in _PLACE)
_NO_RULE = "by no rule: dropped, reshaped or keyed otherwise"


@dataclass(frozen=True)
class Leaving:
    """Rows that would leave, for one reason.

    Attributes:
        rule: the rule that now refuses them; None if they are no longer among the rows read, or have other keys.
        examples: their keys, or where they came from if keys are personal.
    """

    rule: str | None
    rows: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        shown = "; ".join(self.examples) + ("; …" if self.rows > len(self.examples) else "")
        return f"{self.rows:,} {f'by {self.rule}' if self.rule else _NO_RULE} ({shown})"


def rows_leaving(
    work: lake.Workspace, table: str, version: int, rebuilt: str, refused: str, contract: Contract,
    dropped: tuple[str, ...],
) -> tuple[Leaving, ...]:  # fmt: skip
    """Rows of an earlier version that are not in the rebuilt rows, by reason; none if that version cannot be read.

    A row stays if its key does. Under another key it stays if as many rows as before come from its place in the file.
    It leaves, too, if its key stays with an older row because its own is refused now.

    Args:
        work: where they are staged.
        table: the table.
        version: its checked version.
        rebuilt: SELECT of the new rows.
        refused: SELECT of the refused rows, in quarantine's columns.
        contract: the contract of the new rows.
        dropped: tags of landings that staff dropped, whose rows leave on purpose.
    """
    old, key = _old(work, table, version, contract, dropped)
    new = work.show("rebuilt_rows", connect().sql(rebuilt))
    same_key = " AND ".join(f"{{0}}.{quote(k)} = {{1}}.{quote(k)}" for k in key) or "false"
    kept = f"{same_key.format('o', 'n')} AND {_SAME_PLACE.format('o', 'n')}" if key else _SAME_PLACE.format("o", "n")
    moved = _staged(work, f"SELECT o.* FROM {old} o LEFT ANTI JOIN {new} n ON {kept}")
    if moved is None or connect().table(moved).isEmpty():
        return ()
    place = ", ".join(_PLACE)
    reasons = work.stage("reasons", f"SELECT {place}, min(rule) AS rule FROM ({refused}) GROUP BY {place}")
    keys = ", ".join(map(quote, key)) or "NULL AS _none"
    counted = f"(SELECT {place}, count(*) AS _rows FROM {{}} GROUP BY {place})"
    lost = work.stage(
        "lost",
        f"SELECT m.*, coalesce(r.rule, f.rule) AS _rule FROM {moved} m"
        f" LEFT JOIN (SELECT DISTINCT {keys}, true AS _there FROM {new}) k ON {same_key.format('m', 'k')}"
        f" LEFT JOIN {counted.format(new)} a ON {_SAME_PLACE.format('m', 'a')}"
        f" LEFT JOIN {counted.format(old)} b ON {_SAME_PLACE.format('m', 'b')}"
        f" LEFT JOIN {reasons} r ON {_SAME_PLACE.format('m', 'r')}"
        f" LEFT JOIN (SELECT * FROM {reasons} WHERE rule = {literal(FILE_RULE)}) f"
        " ON m._landing_sha256 = f._landing_sha256"
        " WHERE CASE WHEN k._there THEN coalesce(r.rule, f.rule) IS NOT NULL ELSE coalesce(a._rows, 0) < b._rows END",
    )
    return _by_rule(lost, key, contract)


def require_acceptance(
    table: str, leaving: tuple[Leaving, ...], rows: int, accept: str | None, command: str
) -> str | None:
    """What a person accepted; None if no row leaves.

    Raises:
        AcceptanceNeeded: rows would leave, and nobody has accepted it.
    """
    if not leaving:
        return None
    count = sum(reason.rows for reason in leaving)
    found = f"{count:,} of the {rows:,} rows of the checked version would leave: {', '.join(map(str, leaving))}"
    if accept:
        return f"accepted ({accept}): {found}"
    raise AcceptanceNeeded(
        f"with the declarations as they are now, {found}",
        where=table,
        next_step=f'correct the declarations, or: {command} --accept --reason "…"; readers keep it until then',
    )


def _old(
    work: lake.Workspace, table: str, version: int, contract: Contract, dropped: tuple[str, ...]
) -> tuple[str, tuple[str, ...]]:
    """The workspace's view of the earlier rows' places and keys, in the new types, and that key; empty if it is new."""
    before = lake.columns_at(table, version)
    key = tuple(contract.key) if all(k in before for k in contract.key) else ()
    typed = [_as(c.name, c.type, before[c.name]) for c in contract.columns if c.name in key]
    rows = lake.read_table(table, version)
    if dropped:
        rows = rows.where(f"_landing_sha256 NOT IN ({', '.join(map(literal, dropped))})")
    return work.show("old", rows.selectExpr(*typed, *_PLACE)), key


def _staged(work: lake.Workspace, query: str) -> str | None:
    from pyspark.errors import PySparkException

    try:
        return work.stage("moved", query)
    except PySparkException:
        # A version with missing files is rebuilt for that very reason.
        return None


def _as(name: str, kind: str, earlier: str) -> str:
    if kind.lower() == earlier.lower():
        return quote(name)
    return f"try_cast(CAST({quote(name)} AS STRING) AS {kind}) AS {quote(name)}"


def _by_rule(lost: str, key: tuple[str, ...], contract: Contract) -> tuple[Leaving, ...]:
    is_general = all(c.classification == "general" for c in contract.columns if c.name in key)
    shown = [f"CAST({quote(k)} AS STRING)" for k in key] if key and is_general else ["_file", "concat('record ', _row)"]
    example = f"concat_ws(', ', {', '.join(shown)})"
    numbered = (
        f"SELECT _rule, {example} AS _example, row_number() OVER (PARTITION BY _rule ORDER BY {example}) AS _nth,"
        f" count(*) OVER (PARTITION BY _rule) AS _rows FROM {lost}"
    )
    rows = f"SELECT * FROM ({numbered}) WHERE _nth <= {_SHOWN} ORDER BY _rows DESC, _rule, _nth"
    reasons: dict[str | None, Leaving] = {}
    for row in connect().sql(rows).collect():
        examples = reasons[row["_rule"]].examples if row["_rule"] in reasons else ()
        reasons[row["_rule"]] = Leaving(row["_rule"], row["_rows"], (*examples, row["_example"]))
    return tuple(reasons.values())
