"""Shows one row that breaks a rule to those who correct the data; personal values are masked."""

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
# The columns that say where a row came from, without the file's name, which may itself be personal.
_ORIGIN = ("_landing_sha256", "_row")

Example = dict[str, str | None]


def personal_columns(contract: Contract) -> frozenset[str]:
    """The columns classified as personal or sensitive personal."""
    return frozenset(c.name for c in contract.columns if c.classification in _PERSONAL)


def bad_row(rule: Rule, frame: DataFrame, contract: Contract) -> Example | None:
    """A row that breaks a rule: its key, the rule's columns and its origin; None if the rule is not about rows."""
    if rule.good is None:
        return None
    origin = [n for n in _ORIGIN if n in frame.columns]
    names = list(dict.fromkeys((*contract.key, *rule.columns, *origin)))
    return _first(frame.where(f"not ({rule.good})"), names, contract)


def repeated_key(rule: Rule, frame: DataFrame, contract: Contract) -> Example | None:
    """A key that several rows share."""
    from pyspark.sql import functions as F

    names = list(rule.columns)
    keys = [F.col(quote(n)) for n in names]
    repeated = frame.dropna(subset=names).groupBy(*keys).agg(F.count(F.lit(1)).alias("_n")).where("_n > 1")
    return _first(repeated, names, contract)


def counted_row(rule: Rule, frame: DataFrame, contract: Contract) -> Example | None:
    """One of the rows that a rule's query counts; None if it does not count rows, or might show personal values."""
    prefix = re.match(r"select\s+count\(\*\)\s+from\s", rule.parameters["query"], re.I)
    if not prefix or personal_columns(contract):
        return None
    from pyspark.errors import PySparkException

    with lake.workspace("example", uuid.uuid4().hex) as work:
        rows = work.show("rows", frame)
        query = "SELECT * FROM " + rule.parameters["query"][prefix.end() :].replace("${table}", rows)
        try:
            row = frame.sparkSession.sql(query).limit(1).collect()
        except PySparkException:
            # A query that counts rows cannot always return them: one that groups, for example. The count must do.
            return None
    return {name: None if value is None else str(value) for name, value in row[0].asDict().items()} if row else None


def _first(frame: DataFrame, names: Sequence[str], contract: Contract) -> Example | None:
    from pyspark.sql import functions as F

    row = frame.select(*[F.col(quote(n)).cast("string").alias(n) for n in names]).limit(1).collect()
    personal = personal_columns(contract)
    return {n: MASK if n in personal and row[0][n] is not None else row[0][n] for n in names} if row else None
