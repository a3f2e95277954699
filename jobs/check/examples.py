"""One row that breaks a rule, for whoever has to correct the data; personal values are masked."""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING

from jobs import lake
from jobs.declared.contract import Contract
from jobs.declared.rules import Rule
from jobs.declared.sql import quote

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyspark.sql import DataFrame

MASK = "***"
_PERSONAL = ("personal", "sensitive_personal")
# Where a row came from, as far as the table says; the file's name may itself be personal.
_ORIGIN = ("_landing_sha256", "_row")

Example = dict[str, str | None]


def personal_columns(contract: Contract) -> frozenset[str]:
    """The columns whose values may name somebody."""
    return frozenset(c.name for c in contract.columns if c.classification in _PERSONAL)


def bad_row(rule: Rule, frame: DataFrame, contract: Contract) -> Example | None:
    """A row that a rule counts as bad: its key, the columns of the rule and its origin; None for rules of no rows."""
    if rule.good is None:
        return None
    origin = [n for n in _ORIGIN if n in frame.columns]
    names = list(dict.fromkeys((*contract.key, *rule.columns, *origin)))
    return _first(frame.where(f"not ({rule.good})"), names, contract)


def repeated_key(rule: Rule, frame: DataFrame, contract: Contract) -> Example | None:
    """A key that more than one row has."""
    from pyspark.sql import functions as F

    names = list(rule.columns)
    keys = [F.col(quote(n)) for n in names]
    repeated = frame.dropna(subset=names).groupBy(*keys).agg(F.count(F.lit(1)).alias("_n")).where("_n > 1")
    return _first(repeated, names, contract)


def counted_row(rule: Rule, frame: DataFrame, contract: Contract) -> Example | None:
    """One of the rows that a rule's query counts; None where it does not count, or may show personal values."""
    counted = re.match(r"select\s+count\(\*\)\s+from\s", rule.parameters["query"], re.I)
    if not counted or personal_columns(contract):
        return None
    from pyspark.errors import PySparkException

    with lake.workspace("example", uuid.uuid4().hex) as work:
        rows = work.show("rows", frame)
        query = "SELECT * FROM " + rule.parameters["query"][counted.end() :].replace("${table}", rows)
        try:
            row = frame.sparkSession.sql(query).limit(1).collect()
        except PySparkException:
            # Not every query that counts rows can also show them, for example one that groups; the count is shown
            # alone.
            return None
    return {name: None if value is None else str(value) for name, value in row[0].asDict().items()} if row else None


def _first(frame: DataFrame, names: Sequence[str], contract: Contract) -> Example | None:
    from pyspark.sql import functions as F

    row = frame.select(*[F.col(quote(n)).cast("string").alias(n) for n in names]).limit(1).collect()
    personal = personal_columns(contract)
    return {n: MASK if n in personal and row[0][n] is not None else row[0][n] for n in names} if row else None
