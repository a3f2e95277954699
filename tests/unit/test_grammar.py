"""What the grammar of SQL does not allow is refused however deep it hides; what it allows keeps its meaning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.declared import functions
from jobs.declared.compile import compile_rules
from jobs.declared.contract import load_contract
from jobs.declared.grammar import (
    PRODUCT,
    READING,
    RESHAPE,
    ROW,
    RULE,
    TABLE,
    Grammar,
    check_expression,
    check_query,
)
from jobs.declared.spark_sql import SqlMistake
from jobs.declared.sql import read_query
from jobs.errors import DeclarationError
from tests.declaring import write as write_file
from tests.unit.contracts import readings, write

# Each is one value, or would be on some engine.
FORBIDDEN_VALUES = (
    "java_method('java.lang.System', 'getenv', 'HOME')", "reflect('java.lang.System', 'exit', 0)",
    "try_reflect('a', 'b')", "Java_Method ('a', 'b')", "`java_method`('a', 'b')", "java_method/**/('a','b')",
    "java_method--\n('a', 'b')", "default.java_method('a', 'b')", "system.builtin.reflect('a', 'b')",
    "IDENTIFIER('java_method')('a', 'b')", "identifier('a')", "input_file_name()", "current_user()", "current_user",
    "session_user", "user", "`current_catalog`", "version()", "spark_partition_id()", "raise_error('x')",
    "assert_true(false)", "from_avro(a, 'x')", "xpath(a, 'b')", "some_udf(a)", "ai_query('x')", "http_get('http://x')",
    "aes_decrypt(a, b)", "transform(a, x -> x + 1)", "filter(a, x -> java_method('a', 'b'))",
    "aggregate(a, 0, (x, y) -> x)",
    "(SELECT max(value) FROM text.`/etc/passwd`)", "(SELECT * FROM delta.`/lake/silver/x` LIMIT 1)",
    "EXISTS(SELECT 1 FROM binaryFile.`/k`)", "a IN (SELECT value FROM `text`.`/etc/passwd`)",
    "(SELECT 1 FROM lake_silver.x)", "(SELECT 1 FROM spark_catalog.silver.x)", "(SELECT 1 FROM csv.`s3://b/x`)",
    "(SELECT 1 FROM IDENTIFIER('silver.x'))", "(SELECT 1 FROM silver.x VERSION AS OF 1)", "(SELECT 1 FROM some_view)",
    "(SELECT 1 FROM read_files('/etc'))", "(SELECT 1 FROM TABLE(f()))", "(SELECT /*+ BROADCAST(x) */ 1 FROM silver.x)",
    "(SELECT TRANSFORM(a) USING 'cmd' AS (x) FROM silver.x)", "(WITH x AS (SELECT 1) SELECT 1 FROM y)",
    "(SELECT 1 FROM silver.x LATERAL VIEW java_method('a', 'b') t AS c)", "(SELECT 1 FROM silver.`a.b`)",
    "(SELECT 1 FROM (WITH s AS (SELECT 1) SELECT * FROM s) JOIN s)", ":parameter", "?", "@@version", "X'41'", "r'\\d'",
    "'a' 'b'", "'\\d'", "'\\u0041'", "(FROM silver.x SELECT TRANSFORM(a) USING 'c')", "{fn user()}",
    "CAST(a AS java_class)", "a::interval", "(MAP a USING 'cmd')", "(TABLE text.`/x`)"
)  # fmt: skip
ALLOWED_VALUES = (
    "1", "'it\\'s; -- no comment'", "a", "`a b`", "v.a + 1 DIV 2", "CASE WHEN a > 1 THEN 'x' ELSE upper(b) END",
    "coalesce(try_cast(a AS DECIMAL(12, 3)), -1.50)", "a BETWEEN 1 AND 2", "b LIKE 'java_method(%'", "a IS NOT NULL",
    "b RLIKE '^[0-9]{2}\\\\.[a-z]$'", "date_format(CAST(a AS TIMESTAMP), 'yyyy-MM')", "DATE '2020-01-01'",
    "if(a <=> b, 'text.`/etc/passwd`', \"TRANSFORM USING\")", "regexp_replace(b, '\"', '')", "extract(YEAR FROM a)",
    "trim(BOTH 'x' FROM b)", "a NOT IN (1, 2)", "NOT (a = 1 OR b <> 'y')", "map('k', 1)['k']", "INTERVAL 3 DAYS",
)  # fmt: skip
ROWS = ("silver.v AS v", "(SELECT * FROM silver.v) AS v", "silver.v v LEFT JOIN silver.w w ON v.a = w.a")


def _nest_query(value: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Queries that have a value somewhere within."""
    queries = st.tuples(value, st.sampled_from(ROWS), st.sampled_from(_QUERIES)).map(lambda t: t[2](t[0], t[1]))
    return st.recursive(
        queries, lambda inner: st.tuples(inner, st.sampled_from(_AROUND)).map(lambda t: t[1](t[0])), max_leaves=4
    )


_QUERIES: tuple[Callable[[str, str], str], ...] = (
    lambda v, rows: f"SELECT {v} AS x FROM {rows}",
    lambda v, rows: f"SELECT 1 AS x FROM {rows} WHERE ({v}) = 1",
    lambda v, rows: f"SELECT count(*) AS x FROM {rows} GROUP BY v.k HAVING max({v}) > 1",
    lambda v, rows: f"SELECT 1 AS x FROM {rows} ORDER BY ({v})",
    lambda v, rows: f"SELECT sum(a) OVER (PARTITION BY ({v}) ORDER BY b) AS x FROM {rows}",
    lambda v, rows: f"SELECT CASE WHEN a THEN ({v}) END AS x FROM {rows}",
    lambda v, rows: f"SELECT concat(upper(({v})), 'a') AS x FROM {rows}",
    lambda v, rows: f"SELECT v.* FROM silver.u AS u JOIN {rows} ON u.a = ({v})",
    lambda v, rows: f"SELECT x FROM {rows} LATERAL VIEW explode(array({v})) t AS x",
    lambda v, rows: f"SELECT x FROM (VALUES (({v}))) AS t(x), {rows}",
)
_AROUND: tuple[Callable[[str], str], ...] = (
    lambda q: f"SELECT * FROM ({q}) AS s",
    lambda q: f"WITH s AS ({q}) SELECT * FROM s",
    lambda q: f"WITH r AS (SELECT 1 AS x), s AS ({q}) SELECT * FROM s JOIN r ON s.x = r.x",
    lambda q: f"SELECT 1 AS x FROM silver.v UNION ALL ({q})",
    lambda q: f"({q}) EXCEPT SELECT 2 AS x",
    lambda q: f"SELECT (SELECT max(x) FROM ({q}) AS m) AS x FROM silver.v",
    lambda q: f"SELECT 1 AS x FROM silver.v WHERE EXISTS ({q})",
    lambda q: f"SELECT 1 AS x FROM silver.v WHERE NOT exists (({q}) INTERSECT SELECT 1 AS x)",
    lambda q: f"SELECT 1 AS x FROM silver.v WHERE a IN ({q})",
    lambda q: f"SELECT s.x FROM silver.v, LATERAL ({q}) AS s",
    lambda q: f"SELECT 1 AS x FROM silver.v JOIN ({q}) AS s ON true",
    lambda q: f"-- a comment; /* \n{q} -- the end\n",
    lambda q: f"/* a comment ` ' */ {q}",
)


@given(_nest_query(st.sampled_from(FORBIDDEN_VALUES)))
def test_what_is_not_allowed_is_refused_however_deep_it_hides(query: str) -> None:
    with pytest.raises(SqlMistake) as refused:
        check_query(query, PRODUCT)
    assert refused.value.expected or refused.value.next_step


@given(_nest_query(st.sampled_from(ALLOWED_VALUES)))
def test_what_is_allowed_is_accepted_and_what_is_sent_is_itself_allowed(query: str) -> None:
    checked = check_query(query, PRODUCT)
    again = check_query(checked.text, PRODUCT)
    assert (again.text, again.tables) == (checked.text, checked.tables)
    assert set(checked.tables) <= {"silver.u", "silver.v", "silver.w"}
    assert "comment" not in checked.text.replace("no comment", "")


@pytest.mark.parametrize("value", FORBIDDEN_VALUES)
def test_a_value_that_is_not_allowed_is_refused_in_every_grammar(value: str) -> None:
    allowed_in_reading = {"user"} & functions.READING
    for grammar, table in ((PRODUCT, "silver.v"), (RESHAPE, "bronze"), (RULE, TABLE), (READING, "gold.x")):
        if value in allowed_in_reading:
            continue
        with pytest.raises(SqlMistake):
            check_query(f"SELECT {value} FROM {table}", grammar)
    if value not in ("user", "session_user", "`current_catalog`"):
        # There a name must be one of the published columns; whoever knows them checks it.
        with pytest.raises(SqlMistake):
            check_expression(value)


@pytest.mark.parametrize(
    "value",
    [
        "now()", "current_date", "current_timestamp()", "rand()", "uuid()", "unix_timestamp()", "any_value(a)",
        "first(a)", "last_value(a)", "collect_list(a)", "concat_ws(',', collect_set(a))", "lag(a)",
        "approx_count_distinct(a)",
    ],
)  # fmt: skip
def test_values_that_differ_from_run_to_run_can_be_read_but_not_declared(value: str) -> None:
    assert check_query(f"SELECT {value} FROM silver.v", READING)
    with pytest.raises(SqlMistake):
        check_query(f"SELECT {value} FROM silver.v", PRODUCT)


def test_values_with_an_order_of_rows_can_be_declared() -> None:
    for value in ("first_value(a) IGNORE NULLS OVER (ORDER BY b)", "concat_ws(',', sort_array(collect_set(a)))",
                  "lag(a) OVER last_20", "unix_timestamp(a, 'yyyy')"):  # fmt: skip
        query = f"SELECT {value} FROM silver.v WINDOW last_20 AS (ORDER BY b ROWS BETWEEN 19 PRECEDING AND CURRENT ROW)"
        assert check_query(query, PRODUCT).tables == ("silver.v",)


@pytest.mark.parametrize(
    "value", ["sum(a)", "row_number() OVER (ORDER BY a)", "explode(a)", "(SELECT 1)", "EXISTS(SELECT 1)"]
)
def test_an_expression_of_one_row_reads_one_row(value: str) -> None:
    with pytest.raises(SqlMistake, match="not allowed here"):
        check_expression(value)


def test_names_are_seen_only_where_they_are_defined() -> None:
    assert check_query("WITH a AS (SELECT 1 AS x), b AS (SELECT * FROM a) SELECT * FROM b, a", PRODUCT).tables == ()
    for query in (
        "WITH a AS (SELECT * FROM b), b AS (SELECT 1) SELECT * FROM a",
        "WITH a AS (SELECT * FROM a) SELECT * FROM a",
        "WITH RECURSIVE a AS (SELECT 1 UNION ALL SELECT * FROM a) SELECT * FROM a",
        "SELECT * FROM (WITH a AS (SELECT 1) SELECT * FROM a) CROSS JOIN a",
        "SELECT (WITH a AS (SELECT 1) SELECT max(x) FROM a), (SELECT max(x) FROM a)",
        f"WITH {TABLE} AS (SELECT 1) SELECT * FROM {TABLE}",
    ):
        with pytest.raises(SqlMistake):
            check_query(query, PRODUCT)


def test_strings_and_names_cannot_break_out() -> None:
    for query in ("SELECT 'a\\'b', \"it's\", 'c\\\\' AS `x``; DROP TABLE y`", "SELECT a AS `-- '` FROM silver.v"):
        text = check_query(query, PRODUCT).text
        assert check_query(text, PRODUCT).text == text
    with pytest.raises(SqlMistake):
        _ = check_query("SELECT 1 FROM silver.v LATERAL VIEW explode(a) `t AS x, java_method` AS y", PRODUCT).text


def test_deep_nesting_is_refused_and_not_an_accident() -> None:
    with pytest.raises(SqlMistake, match="nested too deeply"):
        check_expression("(" * 5000 + "a" + ")" * 5000)
    with pytest.raises(SqlMistake):
        check_query("SELECT * FROM (" * 2000 + "SELECT 1" + ")" * 2000, PRODUCT)


@given(st.text(max_size=40))
def test_any_text_is_either_allowed_or_refused_in_plain_words(text: str) -> None:
    for grammar in (READING, PRODUCT):
        try:
            assert check_query(text, grammar).text
        except SqlMistake as mistake:
            assert mistake.expected or mistake.next_step


def test_a_mistake_in_a_query_has_its_line(tmp_path: Path) -> None:
    file = write_file(tmp_path / "query.sql", "SELECT\n    a,\n    java_method('x', 'y')\nFROM silver.v\n")
    with pytest.raises(DeclarationError, match="java_method") as refused:
        read_query(file, PRODUCT)
    assert (refused.value.file, refused.value.line) == (file, 3)


FILE = "text.`/etc/passwd`"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"note": {"transformLogic": f"(SELECT max(value) FROM {FILE})"}}, "schema.0.properties.4.transformLogic"),
        ({"note": {"transformLogic": "reflect('a', 'b')"}}, "schema.0.properties.4.transformLogic"),
        ({"note": {"transformLogic": "a AS b"}}, "schema.0.properties.4.transformLogic"),
        (
            {"quality": [{"type": "sql", "query": f"SELECT (SELECT max(value) FROM {FILE}) FROM ${{table}} LIMIT 1",
                          "mustBe": 0}]},
            "schema.0.quality.0.query",
        ),
        (
            {"quality": [{"type": "sql", "query": f"SELECT count(*) FROM ${{table}} WHERE NOT (note IN "
                          f"(SELECT value FROM {FILE}))", "mustBe": 0}]},
            "schema.0.quality.0.query",
        ),
        (
            {"quality": [{"type": "sql", "query": "SELECT count(*) FROM ${table}, silver.other", "mustBe": 0}]},
            "schema.0.quality.0.query",
        ),
        (
            {"quality": [{"type": "sql", "query": "SELECT count(*) FROM ${table}; DROP TABLE x", "mustBe": 0}]},
            "schema.0.quality.0.query",
        ),
        (
            {"note": {"quality": [{"type": "sql", "query": "SELECT max(java_method('a', ${column})) FROM ${table}",
                                   "mustBe": 0}]}},
            "schema.0.properties.4.quality.0.query",
        ),
    ],
)  # fmt: skip
def test_a_contract_reads_its_own_table_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], field: str
) -> None:
    monkeypatch.setenv("EXCHANGE_CATALOGUE", str(tmp_path))
    file = write(tmp_path, readings(**changes))
    with pytest.raises(DeclarationError) as refused:
        compile_rules(load_contract("silver.readings"))
    assert (refused.value.file, refused.value.field) == (file, field)
    assert refused.value.line


@pytest.mark.parametrize(
    ("kind", "kwargs", "argument"),
    [
        ("unexpected_rows_expectation", {"unexpected_rows_query": f"SELECT * FROM {FILE}"}, "unexpected_rows_query"),
        (
            "unexpected_rows_expectation",
            {"unexpected_rows_query": f"SELECT * FROM {{batch}} UNION SELECT * FROM {FILE}"}, "unexpected_rows_query",
        ),
        (
            "unexpected_rows_expectation", {"unexpected_rows_query": "SELECT * FROM {batch.__class__}"},
            "unexpected_rows_query",
        ),
        ("expect_table_row_count_to_equal_other_table", {"other_table_name": "silver.other"}, "other_table_name"),
        ("expect_query_results_to_match_comparison", {"base_query": f"SELECT * FROM {FILE}"}, "base_query"),
        (
            "expect_column_max_to_be_between",
            {"column": "note", "row_condition": f"note IN (SELECT value FROM {FILE})", "condition_parser": "spark"},
            "row_condition",
        ),
        (
            "expect_column_max_to_be_between",
            {"column": "note", "row_condition": {"type": "pass_through", "pass_through_filter": "true"}},
            "row_condition",
        ),
    ],
)  # fmt: skip
def test_an_expectation_reads_its_own_table_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, kwargs: dict[str, Any], argument: str
) -> None:
    monkeypatch.setenv("EXCHANGE_CATALOGUE", str(tmp_path))
    implementation = {"type": kind, "kwargs": kwargs}
    write(tmp_path, readings(quality=[
        {"type": "custom", "engine": "greatExpectations", "implementation": implementation}
    ]))  # fmt: skip
    with pytest.raises(DeclarationError) as refused:
        compile_rules(load_contract("silver.readings"))
    assert refused.value.field == f"schema.0.quality.0.implementation.kwargs.{argument}"


def test_a_query_of_rows_keeps_its_braces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXCHANGE_CATALOGUE", str(tmp_path))
    query = "SELECT note FROM {batch} WHERE note RLIKE '^[a-z]{{2}}$' -- {{\n"
    implementation = {"type": "unexpected_rows_expectation", "kwargs": {"unexpected_rows_query": query}}
    write(tmp_path, readings(quality=[
        {"type": "custom", "engine": "greatExpectations", "name": "x", "implementation": implementation}
    ]))  # fmt: skip
    rules = {rule.id: rule for rule in compile_rules(load_contract("silver.readings"))}
    sent = rules["table.x"].parameters["kwargs"]["unexpected_rows_query"]
    assert sent == "SELECT `note` FROM {batch} WHERE `note` RLIKE '^[a-z]{{2}}$'"


def test_a_grammar_says_what_may_be_read() -> None:
    def reads(grammar: Grammar, table: str) -> bool:
        try:
            check_query(f"SELECT 1 FROM {table}", grammar)
        except SqlMistake as refused:
            assert grammar.tables in str(refused)
            return False
        return True

    readable = ("silver.x", "RELEASE.x_v1_0_0", "quarantine.x", "ops.runs", "`gold`.`x`")
    assert [reads(READING, t) for t in readable] == [True] * 5
    assert [reads(READING, t) for t in ("bronze.x", "lake_silver.x", "x", "default.x", "global_temp.x")] == [False] * 5
    assert [reads(PRODUCT, t) for t in ("silver.x", "gold.x", "release.x", "ops.runs")] == [True, True, False, False]
    assert [reads(RESHAPE, t) for t in ("bronze", "BRONZE", "silver.x", "bronze.x")] == [True, True, False, False]
    assert ROW.of_one_row
    assert not functions.UNSTABLE & functions.DECLARED
