"""The command line without an engine: what it accepts, how it reports errors, and how little it imports."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import pytest
import typer
import yaml
from hypothesis import given
from hypothesis import strategies as st

from jobs.cli import program
from jobs.cli.show import cell, clean, comma_separated, json_text, table
from jobs.cli.statement import Columns, Names, Rows, Shape, read_statement
from jobs.errors import ExchangeError, ExpectationsFailed, PublisherError, RefusedFile, Tampered

LISTS = ("sources", "products", "runs", "grants", "usage", "participants", "releases")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EXCHANGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("EXCHANGE_CATALOGUE", str(tmp_path / "catalogue"))
    monkeypatch.delenv("EXCHANGE_DATABASE_URL", raising=False)
    return tmp_path / "home"


def run_command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run one command; returns exit code, stdout and stderr."""
    code = program.run(arguments)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize(
    ("statement", "sent", "tables"),
    [
        ("SELECT 1;", "SELECT 1", ()),
        (
            "select * from silver.x where a = 'drop table y; delete from z'",
            "SELECT * FROM `silver`.`x` WHERE `a` = 'drop table y; delete from z'", ("silver.x",),
        ),
        ("WITH a AS (SELECT 1 AS n) SELECT * FROM a", "WITH `a` AS (SELECT 1 AS `n`) SELECT * FROM `a`", ()),
        ("(SELECT 1) UNION ALL SELECT 2", "(SELECT 1) UNION ALL SELECT 2", ()),
        ("VALUES (1, 2), (3, 4)", "VALUES (1, 2), (3, 4)", ()),
        ("FROM Silver.X LIMIT 10", "SELECT * FROM `Silver`.`X` LIMIT 10", ("silver.x",)),
        ("explain  extended SELECT a FROM gold.x", "explain extended SELECT `a` FROM `gold`.`x`", ("gold.x",)),
    ],
)  # fmt: skip
def test_a_query_is_read_with_the_tables_that_it_names(statement: str, sent: str, tables: tuple[str, ...]) -> None:
    rows = read_statement(statement)
    assert isinstance(rows, Rows)
    assert (rows.text, rows.query.tables) == (sent, tables)


def test_questions_about_what_can_be_read() -> None:
    forms = ("DESCRIBE silver.x", "desc table `Silver`.`X`;", "DESCRIBE EXTENDED silver.x", "SHOW COLUMNS IN silver.x")
    for text in forms:
        assert read_statement(text) == Columns("silver.x")
    assert read_statement("SHOW TABLES IN gold 'a*|b'") == Names("tables", "gold", "a*|b")
    assert read_statement("show databases") == Names("schemas")
    assert read_statement("SHOW FUNCTIONS LIKE 'to_*'") == Names("functions", None, "to_*")
    shape = read_statement("DESCRIBE QUERY SELECT a FROM silver.x")
    assert isinstance(shape, Shape) and shape.query.tables == ("silver.x",)


@pytest.mark.parametrize(
    "statement",
    [
        "SHOW TABLES IN lake_silver", "SHOW CREATE TABLE silver.x", "SHOW PARTITIONS silver.x",
        "DESCRIBE lake_silver.x", "DESCRIBE FUNCTION abs", "DESCRIBE HISTORY silver.x", "DESC DATABASE x",
        "DESCRIBE text.`/etc/passwd`",
        "SHOW COLUMNS IN silver.x IN lake_silver", "EXPLAIN SELECT * FROM text.`/etc/passwd`",
        "EXPLAIN EXPLAIN SELECT 1",
        "DESCRIBE QUERY SELECT * FROM delta.`/x`", "SHOW TABLES IN gold; DROP TABLE x", "SHOW TBLPROPERTIES silver.x",
        "SELECT * FROM binaryFile.`/issuer.private.jwk.json`", "SELECT TRANSFORM(a) USING 'cmd' AS (x) FROM silver.x",
        "SELECT java_method('java.lang.System', 'exit', 0)", "SELECT * FROM lake_silver.x", "LIST '/etc'",
        "ADD JAR 'x'",
    ],
)  # fmt: skip
def test_what_is_not_registered_is_out_of_reach(statement: str) -> None:
    with pytest.raises(ExchangeError) as refusal:
        read_statement(statement)
    assert "\n" not in str(refusal.value)


def test_csv_is_safe_for_spreadsheets_and_terminals(capsys: pytest.CaptureFixture[str]) -> None:
    header = ["a", "=cmd"]
    rows = [
        ["=HYPERLINK(\"http://x\")", -1], ["+cmd|' /C calc'!A0", Decimal("-0.5")], ["-1+1", -1e300],
        ["@SUM(A1)", "-1.5"], ["\t=1", "+85212345678"], ["\r=1", None], ["  =1", "\uff1d1"],
        ["\x1b[31mred\x9b2J", "a\u202eb"],
        ["plain, text", "2-1"],
    ]  # fmt: skip
    assert comma_separated(header, rows) == 11
    shown = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert shown == [
        ["a", "'=cmd"], ["'=HYPERLINK(\"http://x\")", "-1"], ["'+cmd|' /C calc'!A0", "-0.5"], ["'-1+1", "-1e+300"],
        ["'@SUM(A1)", "-1.5"], ["'\t=1", "+85212345678"], ["'\\r=1", ""], ["'  =1", "'\uff1d1"],
        ["\\x1b[31mred\\x9b2J", "a\\u202eb"], ["plain, text", "2-1"],
    ]  # fmt: skip
    assert comma_separated(header, rows, raw=True) == 0
    assert capsys.readouterr().out.startswith("a,=cmd\n\"=HYPERLINK(\"\"http://x\"\")\",-1\n+cmd|' /C calc'!A0,-0.5\n")


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE silver.x",
        "DELETE FROM silver.x",
        "UPDATE silver.x SET a = 1",
        "INSERT INTO silver.x VALUES (1)",
        "INSERT OVERWRITE silver.x SELECT 1",
        "WITH a AS (SELECT 1) INSERT INTO silver.x SELECT * FROM a",
        "MERGE INTO silver.x t USING y s ON t.a = s.a WHEN MATCHED THEN DELETE",
        "CREATE TABLE t AS SELECT 1",
        "CREATE OR REPLACE VIEW silver.x AS SELECT 1",
        "ALTER TABLE silver.x ADD COLUMN b INT",
        "TRUNCATE TABLE silver.x",
        "EXPLAIN DELETE FROM silver.x",
        "SET spark.sql.ansi.enabled = false",
        "CACHE TABLE silver.x",
        "USE silver",
        "SELECT 1; DROP TABLE silver.x",
        "",
        "nonsense that is no SQL",
        "SELECT FROM WHERE",
    ],
)
def test_writing_statements_are_refused_in_one_line(statement: str) -> None:
    with pytest.raises(ExchangeError) as refusal:
        read_statement(statement)
    assert "\n" not in str(refusal.value)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(values)
def test_json_output_parses_back_to_the_same_value(value: object) -> None:
    assert json.loads(json_text(value)) == value


@given(st.decimals(allow_nan=False, allow_infinity=False, places=9, min_value=-(10**20), max_value=10**20))
def test_json_keeps_every_digit_of_a_decimal(value: Decimal) -> None:
    assert json.loads(json_text({"v": value}), parse_float=Decimal)["v"] == value


def test_values_without_a_json_number_are_text() -> None:
    assert json.loads(json_text([float("nan"), float("inf"), b"\x00\xff", date(2026, 1, 2)])) == [
        "nan", "inf", "00ff", "2026-01-02",
    ]  # fmt: skip


def test_instants_are_shown_in_utc() -> None:
    hongkong = timezone(timedelta(hours=8))
    assert cell(datetime(2026, 1, 1, 8, tzinfo=hongkong)) == "2026-01-01T00:00:00Z"
    assert cell(datetime(2026, 1, 1, tzinfo=UTC)) == cell(datetime(2026, 1, 1)) == "2026-01-01T00:00:00Z"


def test_data_cannot_rewrite_the_terminal() -> None:
    assert "\x1b" not in clean("\x1b[2Jgone\x07\r")


@pytest.mark.parametrize("command", LISTS)
def test_every_list_is_one_json_document_even_if_empty(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run_command(capsys, command, "--json")
    assert (code, json.loads(out), err) == (0, [], "")
    code, out, err = run_command(capsys, command)
    assert (code, out) == (0, "")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["sorces"], "sorces"),
        (["land"], "SOURCE"),
        (["land", "x", "--date", "2026-13-01"], "2026-13-01"),
        (["land", "nowhere"], "no source 'nowhere'"),
        (["gold", "nowhere"], "no product 'nowhere'"),
        (["land", "gold.x"], "`land` does not work on 'gold.x'"),
        (["release", "silver.x"], "`release` does not work on 'silver.x'"),
        (["quality", "nowhere"], "no table 'nowhere'"),
        (["quarantine", "gold.nowhere"], "nowhere"),
        (["rebuild", "nowhere"], "silver.x"),
        (["rebuild", "release.x"], "verify"),
        (["sql", "DROP TABLE x"], "only reads"),
        (["sql", "SELECT 1", "--json", "--csv"], "one of them"),
        (["grant", "x", "--to", "b", "--days", "9"], "no published release"),
        (["revoke", "x"], "--from"),
        (["revoke", "7"], "no such grant"),
        (["diff", "x"], "no release of 'x'"),
        (["verify", "x@1.0.0"], "no release 1.0.0"),
        (["releases", "nowhere"], "no product 'nowhere'"),
        (["enrol", "x", "--role", "pirate"], "pirate"),
        (["source", "new", "x", "--from", "y.csv"], "no sector"),
        (["source", "new", "utility/Bad-Name", "--from", "y.csv"], "Bad-Name"),
        (["source", "new", "utility/xx", "--from", "y.csv"], "no file 'y.csv'"),
        (["source", "new", "utility/xx", "--from", "package:x"], "package:NAME==VERSION#member"),
        (["product", "new", "xx"], "--query"),
        (["product", "new", "xx", "--query", "no.sql"], "no file 'no.sql'"),
    ],
)
def test_a_user_error_is_one_line_and_exits_with_2(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run_command(capsys, *arguments)
    assert (code, out) == (program.USERS_MISTAKE, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert expected in err


def test_an_invalid_setting_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("EXCHANGE_SHARE_PORT", "many")
    code, _, err = run_command(capsys, "sources")
    assert code == program.USERS_MISTAKE
    assert "EXCHANGE_SHARE_PORT" in err


def test_a_broken_declaration_is_listed_beside_valid_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "catalogue/dags/sources/utility/broken"
    folder.mkdir(parents=True)
    (folder / "source.yaml").write_text(yaml.safe_dump({"title": "T"}))
    code, out, err = run_command(capsys, "sources", "--json")
    sources = json.loads(out)
    assert (code, err) == (0, "")
    assert sources[0]["source"] == "broken"
    assert "source.yaml" in sources[0]["mistake"]
    code, _, err = run_command(capsys, "land", "broken")
    assert code == program.USERS_MISTAKE
    assert "source.yaml" in err


@pytest.mark.parametrize(
    ("kind", "code"),
    [(ExpectationsFailed, 1), (PublisherError, 1), (RefusedFile, 1), (Tampered, 1), (ExchangeError, 2), (KeyError, 70)],
)
def test_the_exit_code_depends_on_the_kind_of_error(
    kind: type[Exception], code: int, capsys: pytest.CaptureFixture[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise kind("what went wrong\nin two lines")

    monkeypatch.setattr(program, "_COMMANDS", (("Engineer", "fails", fail), ("Engineer", "works", lambda: None)))
    exit_code, out, err = run_command(capsys, "fails")
    assert (exit_code, out) == (code, "")
    assert err.count("\n") == 1
    logs = list((home / "logs").glob("*.log"))
    assert bool(logs) == (code == program.UNEXPECTED)
    if logs:
        assert str(logs[0]) in err
        assert "Traceback" in logs[0].read_text()


def test_ctrl_c_exits_with_130(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def wait() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(program, "_COMMANDS", (("Engineer", "waits", wait), ("Engineer", "works", lambda: None)))
    assert run_command(capsys, "waits")[0] == program.INTERRUPTED


def test_a_second_ctrl_c_while_python_shuts_down_changes_nothing() -> None:
    script = """
import atexit, os, signal
from jobs.cli import program

def application():
    raise KeyboardInterrupt

atexit.register(os.kill, os.getpid(), signal.SIGINT)
program.application = application
program.main(["run"])
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (program.INTERRUPTED, "interrupted\n")


def test_a_profile_file_is_never_left_without_a_grant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "profile.share"
    code, _, _ = run_command(capsys, "grant", "x", "--to", "b", "--days", "9", "--out", str(out))
    assert code == program.USERS_MISTAKE
    assert not out.exists()
    out.write_text("mine")
    code, _, err = run_command(capsys, "grant", "x", "--to", "b", "--days", "9", "--out", str(out))
    assert code == program.USERS_MISTAKE
    assert "exists already" in err
    assert out.read_text() == "mine"


def test_help_names_the_three_users_and_imports_nothing_heavy() -> None:
    script = "import sys; from jobs.cli import program; program.run(['--help']); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    for panel in ("Engineer", "Exchange staff", "Buyer"):
        assert panel in done.stdout
    loaded = done.stdout.rsplit("[", 1)[1]
    for heavy in ("pandas", "pyarrow", "pyspark", "sqlalchemy", "sqlglot", "pydantic", "deltalake", "airflow"):
        assert f"'{heavy}'" not in loaded


def test_a_closed_output_pipe_is_no_error() -> None:
    done = subprocess.run(
        f"{sys.executable} -m jobs.cli --help | head -1; echo ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""


class Terminal(io.StringIO):
    """A terminal of some columns."""

    def isatty(self) -> bool:
        return True


def shown(monkeypatch: pytest.MonkeyPatch, width: int, header: list[str], rows: list[list[object]]) -> list[str]:
    terminal = Terminal()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", terminal)
        patch.setenv("COLUMNS", str(width))
        patch.setenv("TERM", "xterm")
        table(header, rows)
    return re.sub(r"\x1b\[\d*m", "", terminal.getvalue()).split("\n")[:-1]


RUN = [datetime(2026, 12, 1, 3, 0), "silver", "smart_meter_readings_of_a_town", "succeeded", 12.5, 346_332, 1, 3]
HEADER = ["started at", "step", "name", "status", "seconds", "in", "out", "version"]


def test_a_row_that_is_too_wide_takes_two_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(monkeypatch, 80, HEADER, [RUN, RUN])
    assert len(lines) == 6 and all(len(line) <= 80 for line in lines)
    assert lines[2:4] == lines[4:6]
    assert "smart_meter_readings_of_a_town" in lines[2] and "succeeded" in lines[2] and "346,332" in lines[3]
    # A heading is over its values.
    assert lines[0].index("status") == lines[2].index("succeeded")
    assert lines[1].index("in") + 2 == lines[3].index("346,332") + 7
    assert [line.startswith("    ") for line in lines] == [False, True] * 3
    assert len(shown(monkeypatch, 200, HEADER, [RUN, RUN])) == 3


@given(
    st.lists(st.lists(st.text("ab_ 漢", max_size=60) | st.integers(), min_size=4, max_size=4), min_size=1, max_size=4),
    st.integers(20, 100),
)
def test_no_line_is_wider_than_the_terminal_and_no_short_value_is_broken(
    rows: list[list[object]], width: int
) -> None:
    from rich.cells import cell_len

    with pytest.MonkeyPatch.context() as patch:
        lines = shown(patch, width, ["a", "b", "c", "d"], rows)
    assert all(cell_len(line) <= width for line in lines)
    text = "\n".join(lines)
    for value in (value for row in rows for value in row):
        written = f"{value:,}" if isinstance(value, int) else str(value).strip()
        if " " not in written and cell_len(written) <= min(width - 4, 16):
            assert written in text


def test_a_long_number_that_could_be_folded_takes_no_more_than_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[list[object]] = [[-(10**9), "__漢漢", 10**33, "________漢漢漢"]]
    assert max(map(len, shown(monkeypatch, 84, ["a", "b", "c", "d"], rows))) <= 84


def test_version_and_completion(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = run_command(capsys, "--version")
    assert code == 0 and re.fullmatch(r"exchange \d+\.\d+\.\d+\n", out)
    code, out, _ = run_command(capsys, "--help")
    assert code == 0 and "--install-completion" in out
    for kind in ("products/rates", "sources/finance/rest", "sources/finance/meters"):
        folder = tmp_path / "catalogue/dags" / kind
        folder.mkdir(parents=True)
        (folder / f"{kind.split('/')[0][:-1]}.yaml").touch()
    for typed, names in (("quality r", ["rates", "rest"]), ("gold ", ["rates"]), ("land ", ["meters", "rest"])):
        words = f"exchange {typed}"
        monkeypatch.setenv("_EXCHANGE_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
        with pytest.raises(SystemExit):
            program.run([])
        assert capsys.readouterr().out.split() == names, typed


def test_whatever_lists_prints_json_on_request() -> None:
    group = typer.main.get_command(program.application())
    commands = {}
    for name, command in group.commands.items():
        inner = getattr(command, "commands", None)
        commands |= {f"{name} {own}": each for own, each in inner.items()} if inner else {name: command}
    without = {name for name, command in commands.items() if not any("--json" in p.opts for p in command.params)}
    # They run until they are stopped, write files, or print one document in any case.
    assert without == {
        "run", "up", "serve", "grant", "source new", "product new", "cluster up", "cluster down", "cluster logs",
        "cluster master", "cluster worker", "cluster connect", "cluster lock-jars",
    }  # fmt: skip
