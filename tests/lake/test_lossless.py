"""A typed column takes a text only if nothing of it is lost, as Python's own exact types say."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from jobs.declared.contract import Column
from jobs.declared.conversion import conversion, failure, surplus
from jobs.declared.lossless import out_of_range
from jobs.lake import connect
from tests.lake.trial import Trial

_CONTRACT: Any = object()


def values(kind: str, texts: list[str], expression: str = "try_cast(t AS {})") -> list[Any]:
    """What a column of a type holds for each text; None where the row is refused."""
    sql = expression.format(kind)
    column = Column("c", kind, "")
    conditions = [failure(sql, _CONTRACT, column, "_c")]
    conditions += [surplus(sql, "_c")] if kind.startswith("DECIMAL") else []
    conditions += [out_of_range("_c", kind)] if kind in ("DATE", "TIMESTAMP") else []
    bad = " OR ".join(f"({c})" for c in conditions if c) or "false"
    spark = connect()
    spark.createDataFrame(list(enumerate(texts)), "i int, t string").createOrReplaceTempView("texts")
    shown = "CAST(_c AS STRING)" if kind in ("DATE", "TIMESTAMP") else "_c"
    rows = spark.sql(
        f"SELECT CASE WHEN coalesce({bad}, false) THEN NULL ELSE {shown} END AS c"
        f" FROM (SELECT *, {conversion(sql)} AS _c FROM texts) ORDER BY i"
    )
    return [row["c"] for row in rows.collect()]


def _number(text: str) -> Decimal | None:
    try:
        return Decimal(text) if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text, re.A) else None
    except InvalidOperation:
        return None


def _decimal(text: str) -> Decimal | None:
    # Larger exponents are refused, even of zero.
    number = None if re.search(r"[eE][+-]?0*[1-9]\d\d", text) else _number(text)
    fits = number is not None and abs(number) < 10**9 and number == round(number, 3)
    return number if fits else None


def _double(text: str) -> float | None:
    number = _number(text)
    double = math.inf if number is None else float(number)
    is_kept = math.isfinite(double) and Decimal(repr(double)) == number and (double == 0 or abs(double) >= 2**-1022)
    return double if is_kept else None


def _integer(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[+-]?\d+", text, re.A) and -(2**31) <= int(text) < 2**31 else None


def _boolean(text: str) -> bool | None:
    words = {True: ("true", "t", "yes", "y", "1"), False: ("false", "f", "no", "n", "0")}
    return next((value for value, known in words.items() if text.lower() in known), None)


def _day(text: str) -> str | None:
    match = re.fullmatch(r"\+?(\d{4})-(\d{1,2})-(\d{1,2})", text, re.A)
    try:
        return date(*map(int, match.groups())).isoformat() if match else None
    except ValueError:
        return None


def _instant(text: str) -> str | None:
    look = r"(\+?\d{4}-\d{1,2}-\d{1,2})(?:[ T](\d{1,2}):(\d{1,2})(?::(\d{1,2})(?:\.(\d*))?(Z|[+-]\d\d:\d\d)?)?)?"
    match = re.fullmatch(look, text, re.A)
    if not match or not (day := _day(match[1])) or len((match[5] or "").rstrip("0")) > 6:
        return None
    hour, minute, second = (int(match[n] or 0) for n in (2, 3, 4))
    offset = match[6] or "Z"
    minutes = 0 if offset == "Z" else int(offset[:3]) * 60 + int(offset[0] + offset[4:])
    try:
        local = datetime.fromisoformat(day).replace(
            hour=hour, minute=minute, second=second, microsecond=int(((match[5] or "") + "000000")[:6]), tzinfo=UTC
        )
        at = local - timedelta(minutes=minutes)
    except (ValueError, OverflowError):
        return None
    shown = at.strftime("%m-%d %H:%M:%S") + (f".{at.microsecond:06}".rstrip("0") if at.microsecond else "")
    return f"{at.year:04}-{shown}"


_NUMBERS = st.one_of(
    st.from_regex(r"[+-]?[0-9]{0,10}[.]?[0-9]{0,5}([eE][+-]?[0-9]{1,2})?", fullmatch=True),
    st.from_regex(r"[0-9]{14,19}[.]?[0-9]{0,3}0{0,3}", fullmatch=True),
    st.floats(allow_nan=True).map(repr),
    st.floats(-1000, 1000).map(repr),
    st.decimals(-1000, 1000, places=3).map(str),
    st.sampled_from(
        ["1E2", "1e400", "1e-400", "4.9e-324", "NaN", "inf", "-Infinity", "1d", "0x1p3", "٣", "0E400", "0.10",
         "9007199254740993", "9007199254740992", "1234567890123456.789", "0.30000000000000004", "1_0", "5.", "."]
    ),
)  # fmt: skip
_TAILS = st.sampled_from(["", "", "", " 10:30", "T10:30:00", " see note 3", "T", "Z", "-", " 0"])
_DAYS = st.one_of(
    st.dates().map(date.isoformat),
    st.builds("{}-{}-{}".format, st.integers(0, 20300), st.integers(0, 13), st.integers(0, 32)),
    st.sampled_from(["2024", "2024-05", "0000-01-01", "20224-01-05", "+2024-05-01", "0002024-05", "2024-02-30"]),
)
_INSTANTS = st.builds(
    "{}{}{}".format,
    st.one_of(st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)).map(lambda at: at.isoformat(" ")), _DAYS),
    st.sampled_from(["", "", "000", "0001", ":30", "T1:2", " 24:00", " 10:00:00.123456789", " 10:00:00.1234560"]),
    st.sampled_from(["", "", "Z", "+01:00", "-09:30"]),
)
_CASES: dict[str, tuple[st.SearchStrategy[str], Callable[[str], Any]]] = {
    "INT": (_NUMBERS, _integer),
    "DECIMAL(12,3)": (_NUMBERS, _decimal),
    "DOUBLE": (_NUMBERS, _double),
    "DATE": (st.builds("{}{}".format, _DAYS, _TAILS), _day),
    "TIMESTAMP": (_INSTANTS, _instant),
    "BOOLEAN": (st.sampled_from(["true", "False", "on", "off", "ON", "T", "yes", "NO", "1", "0", "2", "tr"]), _boolean),
}


@pytest.mark.parametrize("kind", _CASES)
@pytest.mark.usefixtures("engine")
def test_a_text_is_kept_whole_or_refused(kind: str) -> None:
    strategy, model = _CASES[kind]

    # Each example is one query over many texts.
    @settings(max_examples=5, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(st.lists(strategy, min_size=100, max_size=200))
    def agrees(texts: list[str]) -> None:
        padded = [f" {text} " for text in texts]
        got = dict(zip(texts, values(kind, padded), strict=True))
        assert {text: got[text] for text in texts if got[text] != model(text)} == {}

    agrees()


@pytest.mark.both_engines("what the engines' own casts let pass")
def test_what_a_type_cannot_hold_is_refused_on_every_engine(exchange: Trial) -> None:
    columns = {
        "id": "INT", "read_on": "DATE", "taken_at": "TIMESTAMP", "x": "DOUBLE", "n": "DECIMAL(18,6)", "ok": "BOOLEAN",
    }  # fmt: skip
    good = ["2024-01-05", " 2024-1-5T10:00:00.1234560Z", "0.30000000000000004", "1E2", " TRUE "]
    bad = {
        "read_on": ["2024", "2024-05", "2024-01-05 see note 3", "2024-01-05 10:00", "20224-01-05", "0000-01-01"],
        "taken_at": ["2024", "2024-01-05 10:00:00.123456789", "20224-01-05 10:00:00", "2024-01-05 10"],
        "x": ["1e400", "NaN", "Infinity", "9007199254740993", "1234567890123456.789", "1e-400", "1d"],
        "n": ["1.23456789E1", "1e-7", "1E99", "٣"],
        "ok": ["on", "2", "tr"],
    }  # fmt: skip
    source = exchange.source(columns, ["id"])
    rows = [dict(zip(columns, ["0", *good], strict=True))]
    expected = [(column, value) for column, texts in bad.items() for value in texts]
    rows += [rows[0] | {"id": str(i), column: value} for i, (column, value) in enumerate(expected, 1)]
    source.take([list(row.values()) for row in rows])
    assert source.rows() == [(
        0, date(2024, 1, 5), datetime(2024, 1, 5, 10, 0, 0, 123456, UTC), 0.30000000000000004, Decimal(100), True,
    )]  # fmt: skip
    assert sorted(source.quarantine("column_name", "value")) == sorted(expected)


@pytest.mark.usefixtures("engine")
def test_a_contract_says_which_loss_it_wants() -> None:
    assert values("DATE", ["2024-01-05 see note"], "try_cast(substr(t, 1, 10) AS {})") == ["2024-01-05"]
    assert values("DATE", ["2024-01-05 23:00"], "try_cast(try_cast(t AS timestamp) AS {})") == ["2024-01-05"]
    assert values("DECIMAL(6,2)", ["1.239", "1e-5", "x"], "try_cast(round(try_cast(t AS decimal(12,6)), 2) AS {})") == [
        Decimal("1.24"), Decimal("0.00"), None,
    ]  # fmt: skip
    # What becomes of a text that is no number is said, but not that one may be rounded.
    rounded = "coalesce(try_cast(t AS {}), 0)"
    assert values("DOUBLE", ["x", "9007199254740993"], rounded) == [0.0, None]
    assert values("BOOLEAN", ["1", "x"], "try_cast((t = '1') AS {})") == [True, False]
    assert values("BOOLEAN", ["1", "x"], "try_cast(case when t = 'x' then t like 'y%' else t = '1' end AS {})") == [
        True, False,
    ]  # fmt: skip
    fractions = "try_to_timestamp(t, 'yyyy-MM-dd HH:mm:ss.SSSSSSSSS')"
    assert values("TIMESTAMP", ["2024-01-05 10:00:00.123456789"], fractions) == [None]
