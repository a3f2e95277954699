"""The command line on a real exchange, as engineers, staff and buyers use it."""

from __future__ import annotations

import csv
import io
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs import lake
from jobs.cli import program
from jobs.declared.catalog import load_sources
from jobs.declared.grammar import READING, check_query
from jobs.lake import connect, views
from jobs.settings import settings
from tests.declaring import write
from tests.lake.trial import Source, Trial, landings

# Exit code, stdout and stderr.
Result = tuple[int, str, str]


class Terminal:
    """Runs commands in this process, as the console script does."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Result:
        code = program.run(arguments)
        out, err = self._capsys.readouterr()
        return code, out, err

    def good(self, *arguments: str) -> str:
        code, out, err = self(*arguments)
        assert code == 0, err
        return out

    def json(self, *arguments: str) -> Any:
        return json.loads(self.good(*arguments, "--json"))

    def bad(self, code: int, *arguments: str) -> str:
        exit_code, out, err = self(*arguments)
        assert (exit_code, out) == (code, ""), err
        assert err.startswith("error: ") and err.count("\n") == 1, err
        return err


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(capsys)


@pytest.fixture
def meters(exchange: Trial) -> Source:
    """A source with one file to land: two good rows and one to refuse."""
    source = exchange.source(
        {"meter": "STRING", "read_at": "TIMESTAMP",
         "energy_kwh": {"physicalType": "DECIMAL(12,6)", "logicalTypeOptions": {"minimum": 0}}},
        ("meter", "read_at"),
        quality=[{"type": "library", "metric": "rowCount", "mustBeGreaterThan": 1, "name": "enough"}],
    )  # fmt: skip
    first, second = "2026-01-01 00:00:00", "2026-01-01 01:00:00"
    source.drop([("a", first, "1.5"), ("a", second, "-2"), ("b", first, "3.25")])
    return source


def test_a_lost_table_does_not_prevent_reading_others(
    exchange: Trial, meters: Source, shell: Terminal
) -> None:
    meters.take([("c", "2026-01-01 00:00:00", "1")])
    other = exchange.source({"day": "DATE", "n": "INT"}, ["day"], "revisions")
    other.take([("2026-01-01", "1")])
    shutil.rmtree(lake.location(other.table))
    assert [r["meter"] for r in shell.json("sql", f"SELECT meter FROM {meters.table} ORDER BY 1")] == ["a", "b", "c"]
    for read in (f"count(*) FROM {other.table}", f"n FROM {other.table}_revisions WHERE day > '2026-01-01'"):
        error = shell.bad(2, "sql", f"SELECT {read}")
        assert f"{other.table} cannot be read" in error and f"exchange rebuild {other.table}" in error
    assert {s["source"]: s["rows"] for s in shell.json("sources")} == {meters.name: 3, other.name: None}
    next(lake.location(meters.table).glob("*.parquet")).unlink()
    assert "a file of the table is missing" in shell.bad(2, "sql", f"SELECT * FROM {meters.table}")


def test_a_build_reports_refused_rows_and_full_scans(exchange: Trial, shell: Terminal) -> None:
    source = exchange.source({"id": "STRING", "day": "DATE", "n": "INT"}, ["id"], partition=["day"])
    source.drop([("a", "2026-01-01", "1"), ("b", "2026-01-01", "x")])
    for step in ("land", "bronze"):
        shell.good(step, source.name)
    whole = "every run reads the whole table: nothing shows that its partition (day) follows from its key (id)"
    message = shell.json("silver", source.name)["message"]
    assert message.startswith(f"1 row refused, see `exchange quarantine {source.name}`; {whole}")
    shell.good("check", source.name)
    assert shell.json("quality", source.name)["remarks"][0].startswith(whole)
    assert whole in shell("quality", source.name)[2]
    assert whole in Path(shell.json("docs")["page"]).read_text(encoding="utf-8")
    assert "`check` does not work on" in shell.bad(2, "check", f"quarantine.{source.name}")


def load_day(meters: Source, shell: Terminal, date: str = "2026-01-01") -> None:
    for step in ("land", "bronze", "silver", "check"):
        shell.good(step, meters.name, "--date", date)


def product_of(exchange: Trial, meters: Source) -> str:
    return exchange.product(
        {"meter": "STRING", "energy_kwh": "DECIMAL(22,6)", "readings": "BIGINT"},
        ("meter",),
        f"SELECT meter, sum(energy_kwh) AS energy_kwh, count(*) AS readings FROM {meters.table} GROUP BY meter",
    )


def test_the_steps_of_a_source_one_by_one(meters: Source, shell: Terminal) -> None:
    landed = shell.json("land", meters.name, "--date", "2026-01-01")
    assert (landed["step"], landed["status"]) == ("land", "succeeded")
    assert landings(meters.name)[0].logical_date.isoformat() == "2026-01-01T00:00:00+00:00"
    assert "3 rows" in shell.good("bronze", f"bronze.{meters.name}")
    code, out, err = shell("silver", meters.table)
    assert (code, "2 rows" in out) == (0, True)
    assert f"exchange check {meters.table}" in err
    assert "grade" in shell.good("check", meters.table)
    for step in ("land", "bronze", "silver", "check"):
        assert "unchanged" in shell.good(step, meters.name)


def test_sources_and_runs_are_listed(meters: Source, shell: Terminal) -> None:
    load_day(meters, shell)
    source = shell.json("sources")[0]
    assert (source["source"], source["files_landed"], source["rows"], source["mistake"]) == (meters.name, 1, 2, None)
    assert source["grade"] in "ABCDE"
    steps = shell.json("runs", "--name", meters.name)
    assert [(r["step"], r["status"]) for r in steps] == [
        ("check", "succeeded"), ("silver", "succeeded"), ("bronze", "succeeded"), ("land", "succeeded"),
    ]  # fmt: skip
    assert (steps[1]["rows_in"], steps[1]["rows_out"], steps[1]["rows_quarantined"]) == (3, 2, 1)
    assert len(shell.json("runs", "--limit", "2")) == 2
    assert [r["step"] for r in shell.json("runs", "--step", "land")] == ["land"]
    assert shell.json("runs", "--status", "failed") == []
    for command in ("sources", "runs"):
        assert meters.name in shell.good(command)


def test_quality_and_quarantine_show_rules_and_rows(meters: Source, shell: Terminal) -> None:
    assert "has not been checked" in shell.bad(2, "quality", meters.name)
    load_day(meters, shell)
    for name in (meters.name, meters.table):
        quality = shell.json("quality", name)
        assert (quality["table"], quality["latest"]["passed"], len(quality["history"])) == (meters.table, True, 1)
    rules = {r["id"]: r for r in quality["latest"]["rules"]}
    assert rules["table.enough"]["success"] is True
    assert "grade" in shell.good("quality", meters.name)
    refused = shell.json("quarantine", meters.table)
    assert refused["rules"] == [{"rule": "energy_kwh.range", "columns": "energy_kwh", "rows": 1, "files": 1}]
    row = refused["rows"][0]
    assert (row["value"], row["row"]) == ("-2", 3)
    assert row["file"].endswith(".csv")
    assert "energy_kwh.range" in shell.good("quarantine", f"quarantine.{meters.name}")
    assert "no quarantine" in shell.bad(2, "quarantine", f"gold.{product_of(meters.exchange, meters)}")


def test_a_failed_expectation_exits_with_1_and_is_kept_in_quality(meters: Source, shell: Terminal) -> None:
    load_day(meters, shell)
    meters.declare(quality=[{"type": "library", "metric": "rowCount", "mustBeGreaterThan": 99, "name": "enough"}])
    shell.good("silver", meters.name)
    assert "table.enough" in shell.bad(1, "check", meters.name)
    quality = shell.json("quality", meters.name)
    assert [c["passed"] for c in quality["history"]] == [False, True]
    failed = quality["latest"]["failed"][0]
    assert (failed["id"], failed["success"], failed["observed"]) == ("table.enough", False, 2)
    output = shell.good("quality", meters.name)
    assert "FAILED" in output and "why: graded E because rules of severity error failed: table.enough" in output
    assert quality["latest"]["reasons"]
    assert shell.json("sources")[0]["rows"] == 2
    product_of(meters.exchange, meters)
    code, _, errors = shell("products")
    assert code == 1 and f"{meters.table} is blocked since" in errors and "table.enough (error" in errors


def test_sql_prints_checked_tables_in_three_formats(meters: Source, shell: Terminal) -> None:
    load_day(meters, shell)
    columns = "meter, read_at, energy_kwh, array(1, 2) AS pair, named_struct('a', read_at) AS nested"
    query = f"SELECT {columns} FROM {meters.table} ORDER BY meter"
    rows = shell.json("sql", query)
    assert rows[1] == {
        "meter": "b", "read_at": "2026-01-01T00:00:00Z", "energy_kwh": 3.25, "pair": [1, 2],
        "nested": {"a": "2026-01-01T00:00:00Z"},
    }  # fmt: skip
    assert '"energy_kwh": 3.250000,' in shell.good("sql", query, "--json")
    table = list(csv.reader(io.StringIO(shell.good("sql", query, "--csv"))))
    assert table[0] == ["meter", "read_at", "energy_kwh", "pair", "nested"]
    assert table[2][:3] == ["b", "2026-01-01T00:00:00Z", "3.250000"]
    assert "3.250000" in shell.good("sql", query)
    assert shell.json("sql", f"FROM {meters.table} LIMIT 1")[0]["meter"] in "ab"
    assert len(shell.json("sql", f"SELECT * FROM {meters.table}", "--limit", "1")) == 1
    assert shell.json("sql", f"SELECT * FROM {meters.table} WHERE false") == []
    assert shell.json("sql", "SELECT step FROM ops.runs WHERE step = 'land'") == [{"step": "land"}]
    described = {r["col_name"]: r for r in shell.json("sql", f"DESCRIBE {meters.table}")}
    assert described["energy_kwh"]["data_type"] == "decimal(12,6)"
    assert described["_row"]["comment"].startswith("record of the file")
    assert {"namespace": "silver", "tableName": meters.name, "isTemporary": False} in shell.json("sql", "SHOW TABLES")
    assert [r["tableName"] for r in shell.json("sql", "SHOW TABLES IN ops")] == ["runs"]
    assert [r["col_name"] for r in shell.json("sql", "DESCRIBE QUERY SELECT 1 AS one")] == ["one"]
    assert shell.json("sql", f"SELECT rule FROM quarantine.{meters.name}") == [{"rule": "energy_kwh.range"}]
    code, out, err = shell("sql", "SELECT id FROM range(200)")
    assert (code, out.count("\n"), "--limit" in err) == (0, 51, True)
    assert shell.good("sql", "SELECT id FROM range(200000)", "--csv").count("\n") == 200_001


def test_a_query_costs_what_it_names(meters: Source, shell: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    load_day(meters, shell)
    asked: list[str] = []

    def counted(name: str) -> Callable[..., object]:
        original = getattr(views, name)

        def call(*args: object) -> object:
            asked.append(name)
            return original(*args)

        return call

    for name in ("pointer", "pointers", "published_releases", "load_sources", "list_runs"):
        monkeypatch.setattr(views, name, counted(name))
    assert shell.json("sql", "SELECT 1 AS one") == [{"one": 1}]
    assert asked == []
    shell.json("sql", f"SELECT 1 FROM {meters.table}")
    assert asked == ["pointer"]


@pytest.mark.both_engines("how SQL is read")
@pytest.mark.usefixtures("engine")
def test_the_engine_reads_what_was_written() -> None:
    """The text that is sent means the same as the text as written."""
    values = (
        "'it\\'s; -- no comment'", "'a\\\\b\\n\\t\"%'", "\"it's\"", "1.50", "-1e3", "1L + 2S", "7 DIV 2", "-7 % 3",
        "1 / 4", "5 ^ 3", "NOT true OR false AND NULL", "NOT (true OR false) AND true", "1 - (2 - 3)", "2 * (3 + 4)",
        "NULL IS NOT NULL", "'ab' RLIKE '^[a-z]{2}$'", "'a.b' RLIKE 'a\\\\.b'", "'a%b' LIKE 'a\\%b'",
        "'aXb' LIKE 'a!%b' ESCAPE '!'", "NULL <=> NULL", "DATE '2024-02-29' + INTERVAL 1 DAYS",
        "TIMESTAMP '2020-01-01T00:00:00Z'", "extract(YEAR FROM DATE '2020-05-01')", "trim(BOTH 'x' FROM 'xax')",
        "substring('abcdef', 2, 3)", "CASE 1 WHEN 1 THEN 'x' ELSE 'y' END", "if(1 > 2, 'a', 'b')",
        "try_cast('x' AS DECIMAL(12, 3))", "CAST('1.25' AS DECIMAL(12,1))", "1 BETWEEN 1 AND 2", "3 NOT IN (1, 2)",
        "'a' || 'b'", "regexp_replace('100-200', '([0-9]+)', 'n')", "date_format(DATE '2020-01-05', 'yyyy-MM')",
        "map('k', 1)['k']", "!true", "concat_ws(',', sort_array(array('b', 'a')))", "~5 & 3 | 8",
        "coalesce(NULL, nullif('', ''), 'z')", "1 = 1 = true",
    )  # fmt: skip
    as_written = ", ".join(values)
    sent = check_query(f"SELECT {as_written}", READING).text
    engine = connect()
    assert tuple(engine.sql(sent).collect()[0]) == tuple(engine.sql(f"SELECT {as_written}").collect()[0])


def test_a_query_that_the_engine_refuses_is_one_line(meters: Source, shell: Terminal) -> None:
    load_day(meters, shell)
    for query, message in (
        (f"SELECT * FROM {meters.table}x", "perhaps"),
        ("SELECT * FROM silver.wholly_other", "one of"),
        (f"SELECT nowhere FROM {meters.table}", "one of: meter, read_at, energy_kwh"),
        (f"SELECT m.metre FROM {meters.table} AS m", f"no column 'metre' in {meters.table}; expected perhaps meter"),
        ("SELECT date_add(DATE '9999-12-31', 1) AS late", "the column 'late' has a date or an instant outside"),
        ("SELECT 1 AS x, array(DATE '0001-01-01' - INTERVAL 1 DAYS) AS `early one`", "the column 'early one' has"),
        ("SELECT * FROM silver.nothing_revisions", "no table or view"),
        (f"SELECT * FROM delta.`/lake/silver/{meters.name}`", "expected silver.x"),
        (f"SELECT * FROM lake_silver.{meters.name}", "expected silver.x"),
        (f"SELECT CAST(meter AS INT) FROM {meters.table}", "rejected"),
        ("SELECT 1 / 0", "zero"),
        ("SELEC 1", "SQL"),
    ):
        for words in ((), ("--limit", "5")):
            error = shell.bad(2, "sql", query, *words)
            assert message in error
            assert not any(inner in error for inner in ("SQLSTATE", "org.apache", "+-")), "no engine internals"


def test_a_product_from_build_to_buyer(meters: Source, shell: Terminal, tmp_path: Path) -> None:
    name = product_of(meters.exchange, meters)
    assert meters.table in shell.bad(2, "gold", name)
    load_day(meters, shell)
    for step in ("gold", "check", "release"):
        shell.good(step, name)
    meters.drop([("a", "2026-01-02 00:00:00", "4"), ("c", "2026-01-02 00:00:00", "5")])
    load_day(meters, shell, "2026-01-02")
    for step in ("gold", "check", "release"):
        shell.good(step, name)
    listed = shell.json("releases", name)
    assert [(r["release"], r["added"], r["changed"]) for r in listed] == [("1.1.0", 1, 1), ("1.0.0", 2, 0)]
    assert shell.json("products")[0]["release"] == "1.1.0"
    diff = shell.json("diff", name)
    assert (diff["from"], diff["to"], diff["added"], diff["changed"]) == ("1.0.0", "1.1.0", 1, 1)
    kinds = {row["kind"]: row for row in diff["rows"]}
    assert kinds["added"]["key"] == {"meter": "c"}
    assert (kinds["changed"]["before"]["readings"], kinds["changed"]["after"]["readings"]) == (1, 2)
    assert "1 added" in shell.good("diff", f"gold.{name}", "1.0.0", "1.1.0")
    assert shell.json("sql", f"SELECT count(*) AS n FROM release.{name}_v1_0_0") == [{"n": 2}]
    assert shell.json("verify", f"{name}@1.0.0")["ok"] is True
    assert "exactly as it was released" in shell.good("verify", name)
    profile = tmp_path / "profile.share"
    shell.good("grant", name, "--to", "Harbour Bank", "--days", "9", "--out", str(profile))
    assert profile.stat().st_mode & 0o777 == 0o600
    token = json.loads(profile.read_text())["bearerToken"]
    assert json.loads(shell.good("grant", name, "--to", "Harbour Bank", "--days", "9"))["bearerToken"] != token
    granted = shell.json("grants", "--buyer", "Harbour Bank")
    assert [g["standing"] for g in granted] == ["live", "live"]
    assert token not in json.dumps(granted)
    assert shell.json("revoke", str(granted[0]["grant"]))[0]["standing"] == "revoked"
    shell.good("revoke", name, "--from", "Harbour Bank", "--reason", "contract ended")
    assert {g["standing"] for g in shell.json("grants")} == {"revoked"}
    assert [p["name"] for p in shell.json("participants")] == ["Harbour Bank"]
    assert shell.json("usage") == shell.json("usage", "--requests") == shell.json("usage", "--refused") == []


def test_verifying_a_damaged_release_exits_with_1(meters: Source, shell: Terminal) -> None:
    name = product_of(meters.exchange, meters)
    load_day(meters, shell)
    for step in ("gold", "check", "release"):
        shell.good(step, name)
    data = next((settings().lake / "gold" / name).rglob("*.parquet"))
    data.chmod(0o644)
    write(data, data.read_bytes()[:-1] + b"\x00")
    code, out, _ = shell("verify", name)
    assert (code, data.name in out, "NOT as it was released" in out) == (1, True, True)
    code, out, _ = shell("verify", name, "--json")
    assert (code, json.loads(out)["ok"]) == (1, False)


def test_rebuild_lists_the_rebuilt_tables(meters: Source, shell: Terminal) -> None:
    load_day(meters, shell)
    rebuilt = shell.json("rebuild", meters.table)
    assert [(r["table"], r["equal"]) for r in rebuilt] == [
        (f"bronze.{meters.name}", True), (meters.table, True), (f"quarantine.{meters.name}", True),
    ]  # fmt: skip
    assert "equal to the table before" in shell.good("rebuild", f"bronze.{meters.name}")


def test_docs_prints_the_page_it_wrote(meters: Source, shell: Terminal) -> None:
    load_day(meters, shell)
    page = Path(shell.json("docs")["page"])
    assert meters.name in page.read_text()


@pytest.mark.usefixtures("exchange")
def test_a_first_source_and_product_from_a_sample(shell: Terminal, tmp_path: Path) -> None:
    sample = write(tmp_path / "cities.csv", "city,day,load (MWh)\nA,2026-01-01,1.5\nB,2026-01-01,2.5\n")
    output = shell.good("source", "new", "utility/first_city_load", "--from", str(sample))
    assert "exchange land first_city_load" in output
    assert load_sources().sources["first_city_load"].sector == "utility"
    write(settings().drop / "first_city_load" / "cities.csv", sample.read_bytes())
    for step in ("land", "bronze", "silver", "check"):
        shell.good(step, "first_city_load")
    sums = "SELECT city, sum(load_mwh) AS load_mwh FROM silver.first_city_load GROUP BY city"
    query = write(tmp_path / "q.sql", sums)
    shell.good("product", "new", "first_totals", "--query", str(query))
    for step in ("gold", "check"):
        shell.good(step, "first_totals")
    assert shell.json("sql", "SELECT * FROM gold.first_totals ORDER BY city") == [
        {"city": "A", "load_mwh": 1.5}, {"city": "B", "load_mwh": 2.5},
    ]  # fmt: skip
    assert "already" in shell.bad(2, "source", "new", "utility/first_city_load", "--from", str(sample))
    assert shell.json("products")[0]["blocked"] is None
    code, output, _ = shell("release", "first_totals")
    assert code == 1 and "release first_totals held back" in output and "(licence): the licence 'unknown'" in output
    assert "--accept without --reason" in shell.bad(2, "release", "first_totals", "--accept")
    assert "--reason without --accept" in shell.bad(2, "release", "first_totals", "--reason", "x")


def test_a_locked_source_exits_with_1(meters: Source, shell: Terminal) -> None:
    from jobs.registry.locks import hold

    with hold(f"source.{meters.name}"):
        assert "is locked by process" in shell.bad(1, "land", meters.name)


def test_the_server_stops_at_ctrl_c(meters: Source) -> None:
    assert meters.exchange.root == settings().catalogue
    server = subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", "serve", "--port", "0"], stderr=subprocess.PIPE, text=True
    )
    try:
        assert server.stderr is not None
        assert "serving" in server.stderr.readline()
        time.sleep(2)
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=120) in (0, program.INTERRUPTED)
        assert "Traceback" not in server.stderr.read()
    finally:
        server.kill()
