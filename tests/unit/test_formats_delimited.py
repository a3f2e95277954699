"""Delimited text: rows are read back as written, and damage loses only the damaged lines."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jobs.bronze.formats import read
from jobs.bronze.formats.delimited import read as read_delimited
from jobs.bronze.formats.window import Bounds
from jobs.declared.format import Delimited
from jobs.errors import RefusedFile
from jobs.land.containers import Member
from tests.publishers import publisher_file

TINY = Bounds(block=90, record=40, step=20)


def rows_of(data: bytes, bounds: Bounds | None = None, **form: Any) -> list[dict[str, Any]]:
    member = Member("x.csv", io.BytesIO(data))
    batches = read_delimited(member, Delimited(**form), bounds) if bounds else read_delimited(member, Delimited(**form))
    return [row for batch in batches for row in batch.to_pylist()]


def rows_in(path: Path, **form: Any) -> list[dict[str, Any]]:
    return [row for batch in read(path, path.name, Delimited(**form)) for row in batch.to_pylist()]


def good(rows: list[dict[str, Any]], *columns: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in columns) for row in rows if row["_refused"] is None]


def refused(rows: list[dict[str, Any]]) -> list[tuple[int, str, str]]:
    return [(row["_row"], row["_refused"], row["_raw"]) for row in rows if row["_refused"] is not None]


cell_text = st.text(st.characters(codec="gb18030", exclude_categories=["Cs"], exclude_characters="\ufeff"), max_size=8)


@settings(max_examples=150)
@given(
    table=st.integers(1, 4).flatmap(lambda width: st.lists(st.lists(cell_text, min_size=width, max_size=width))),
    delimiter=st.sampled_from(",;\t|"),
    line_end=st.sampled_from(["\n", "\r\n", "\r"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "gb18030", "utf-16", "utf-16-le", "utf-32"]),
)
@example(table=[["\x00", '"']], delimiter=",", line_end="\r", quoting=csv.QUOTE_ALL, encoding="utf-16")
def test_what_the_csv_module_writes_is_read_back(
    table: list[list[str]], delimiter: str, line_end: str, quoting: int, encoding: str
) -> None:
    names = [f"name {number}" for number in range(len(table[0]) if table else 2)]
    text = io.StringIO(newline="")
    # The stubs want one of the module's constants, of which this is one.
    writer = csv.writer(text, delimiter=delimiter, lineterminator=line_end, quoting=quoting)  # type: ignore[arg-type]
    writer.writerows([names, *table])
    content = text.getvalue()
    # The csv module does not quote a cell with the other line end, which readers take for a line end.
    if quoting == csv.QUOTE_MINIMAL:
        text = io.StringIO(newline="")
        csv.writer(text, delimiter=delimiter, lineterminator="\r\n").writerows([names, *table])
        content = text.getvalue()
    rows = rows_of(content.encode(encoding), columns=tuple(names), delimiter=delimiter, encoding=encoding)
    assert refused(rows) == []
    assert good(rows, *names) == [tuple(row) for row in table]


RENAMED = ("day", {"as": "rate", "published": ["Value", "Exchange rate"]}, {"as": "note", "optional": True})


def test_columns_that_were_renamed_added_or_moved_are_found_in_every_file() -> None:
    before = rows_of(b"day,Value\n1,2\n", columns=RENAMED)
    after = rows_of(b"note,Exchange rate,day\nx,3,2\n", columns=RENAMED)
    assert good(before, "day", "rate", "note") == [("1", "2", None)]
    assert good(after, "day", "rate", "note") == [("2", "3", "x")]
    assert [row["_extra"] for row in before + after] == [None, None]
    swapped = ({"as": "a", "published": ["b"]}, {"as": "b", "published": ["a"]})
    assert good(rows_of(b"a,b\n1,2\n", columns=swapped), "a", "b") == [("2", "1")]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"day,note", "missing column 'rate'"),
        (b"day,rates", "optional: true"),
        (b"day,Value,Exchange rate", "names of one column, 'rate'"),
        (b"day,Value,Value", "names Value more than once"),
    ],
)
def test_a_header_without_one_name_for_each_column_is_refused(header: bytes, message: str) -> None:
    with pytest.raises(RefusedFile, match=message):
        rows_of(header + b"\n1,2,3\n", columns=RENAMED)


def test_a_file_with_none_of_the_columns_is_refused_though_all_are_optional() -> None:
    with pytest.raises(RefusedFile, match="missing columns 'a', 'b'"):
        rows_of(b"x,y\n1,2\n", columns=({"as": "a", "optional": True}, {"as": "b", "optional": True}))


@settings(max_examples=300)
@given(
    data=st.lists(
        st.sampled_from([b"a", b"bb", b",", b",", b'"', b'""', b"\n", b"\n", b"\r\n", b"\r", b"\xff", b"\xc3\xa9"])
    )
    .map(b"".join)
    .filter(lambda data: data.strip(b"\r\n") != b""),
    block=st.integers(90, 140),
    step=st.integers(1, 40),
    escape=st.sampled_from([None, "b"]),
)
@example(data=b'a,"' + b"a" * 60 + b"\na,a\n" * 30, block=90, step=20, escape=None)
@example(data=b"a" * 300 + b"\na,a\n", block=90, step=20, escape=None)
def test_rows_do_not_depend_on_block_boundaries(data: bytes, block: int, step: int, escape: str | None) -> None:
    form = {"columns": ("x", "y"), "header": False, "delimiter": ",", "escape": escape}
    by_row = lambda row: (row["_row"], row["_refused"] or "")  # noqa: E731 - a key for two lines
    blocks = sorted(rows_of(data, Bounds(max(block, step + 42), 40, step), **form), key=by_row)
    whole = sorted(rows_of(data, Bounds(10_000, 40, 5_000), **form), key=by_row)
    assert blocks == whole
    letters = sum(data.count(letter) for letter in (b"a", b"\xc3"))
    kept = sum(text.count("a") + text.count("é") for row in whole for text in (row["x"], row["y"], row["_raw"]) if text)
    assert kept == letters


def test_rows_have_physical_line_numbers_with_either_parser() -> None:
    data = b'# made\n\na,b\n1,"two\nlines"\n\n3,4\n5\n6,7,8\n"9"x,"y\n10,11\n'
    rows = rows_of(data, columns=("a", "b"), skip_lines=1)
    assert [(row["_row"], row["a"]) for row in rows if not row["_refused"]] == [(4, "1"), (7, "3"), (11, "10")]
    assert refused(rows) == [
        (8, "too_few_cells: expected 2, found 1", "5"),
        (9, "too_many_cells: expected 2, found 3", "6,7,8"),
        (10, "quote_not_closed: the quote opened in cell 1 is never closed", '"9"x,"y'),
    ]


def test_columns_are_matched_by_name_and_undeclared_ones_are_kept() -> None:
    rows = rows_of(b"b, c ,a,\n1,x,2,\n3,,4,\n5,y,6,7\n", columns=("a", "b"))
    assert good(rows, "a", "b") == [("2", "1"), ("4", "3"), ("6", "5")]
    assert [json.loads(row["_extra"]) for row in rows] == [{"c": "x"}, {"c": ""}, {"c": "y", "column_4": "7"}]


@settings(max_examples=60)
@given(table=st.lists(st.tuples(cell_text, cell_text), min_size=1, max_size=6))
@example(table=[('a\\"', "\\"), ("\t", "\x7f\u2028")])
def test_undeclared_columns_are_valid_json(table: list[tuple[str, str]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([("a", 'é"', "x"), *((1, *row) for row in table)])
    rows = rows_of(text.getvalue().encode(), columns=("a",), delimiter=",")
    assert [json.loads(row["_extra"]) for row in rows] == [{'é"': first, "x": second} for first, second in table]


def test_an_empty_trailing_column_is_ignored() -> None:
    rows = rows_of(b"a,b,\n1,2,\n", columns=("a", "b"))
    assert good(rows, "a", "b", "_extra") == [("1", "2", None)]


def test_a_renamed_column_is_reported_with_both_names() -> None:
    with pytest.raises(RefusedFile) as caught:
        rows_of(b"Date,Country,Exchange rate\n1,2,3\n", columns=("Date", "Country", "Exchange_rates"))
    assert "missing column 'Exchange_rates'" in str(caught.value)
    assert "'Exchange rate' may be the new name of 'Exchange_rates'" in str(caught.value)


def test_a_column_named_twice_is_refused() -> None:
    with pytest.raises(RefusedFile, match="names a more than once"):
        rows_of(b"a,a\n1,2\n", columns=("a",))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "an empty file"),
        (b"\n\n\r\n", "an empty file"),
        (b"\xef\xbb\xbf", "an empty file"),
        (b"<!DOCTYPE html><html><head><title>Log\n in &amp; pay</title>", "an HTML page, title 'Log in & pay'"),
        (b"\n <HTML><body>gone</body>", "an HTML page without a title"),
        ("<html><title>x</title>".encode("utf-16"), "an HTML page, title 'x'"),
        ("名字,b\n".encode("gb18030"), "declare encoding: gb"),
        ("a,b\n1,2\n".encode("utf-16"), "declare encoding: utf-16"),
        (b"x" * 2_000_000, "no line end"),
    ],
)
def test_content_without_data_is_refused_by_name(data: bytes, message: str) -> None:
    with pytest.raises(RefusedFile) as caught:
        rows_of(data, columns=("a", "b"))
    assert message in str(caught.value)


def test_a_preamble_longer_than_the_file_is_refused() -> None:
    with pytest.raises(RefusedFile, match="ends after 2 lines"):
        rows_of(b"a\nb\n", columns=("a",), skip_lines=3)


def test_a_header_alone_gives_no_row() -> None:
    assert rows_of(b"a,b\r\n", columns=("a", "b")) == []


@pytest.mark.parametrize("data", [b"a;b,c\n1;2\n", b"a\tb,c\n1\t2\n", b"a|b,c\n1|2\n"])
def test_the_delimiter_is_detected_by_the_names(data: bytes) -> None:
    assert good(rows_of(data, columns=("a", "b,c")), "a", "b,c") == [("1", "2")]


def test_the_delimiter_is_detected_by_the_number_of_cells() -> None:
    data = b"1,5;2;x\n" * 3
    assert good(rows_of(data, columns=("a", "b", "c"), header=False), "a", "b", "c") == [("1,5", "2", "x")] * 3


def test_only_undecodable_rows_are_refused() -> None:
    clean = "".join(f"{number},香港\n" for number in range(40_000)).encode()
    rows = rows_of(b"a,b\n" + clean + b"x,\xff\xfe\n" + clean, columns=("a", "b"))
    assert len(good(rows, "a")) == 80_000
    assert refused(rows) == [(40_002, "undecodable: not utf-8 at byte 0 (0xff) of cell 2", "x,\\xff\\xfe")]
    assert max(row["_row"] for row in rows) == 80_002


def test_undecodable_rows_of_other_encodings_are_refused_with_their_byte() -> None:
    data = "a,b\n一,二\n".encode("gb18030") + b"x,ab\x81\n" + "三,四\n".encode("gb18030")
    rows = rows_of(data, columns=("a", "b"), encoding="gb18030")
    assert good(rows, "a", "b") == [("一", "二"), ("三", "四")]
    assert refused(rows) == [(3, "undecodable: not gb18030 at byte 2 (0x81) of cell 2", "x,ab\\x81")]


def test_a_row_undecodable_and_of_the_wrong_width_is_refused_once() -> None:
    assert refused(rows_of(b"a,b\n\xff,\xff,3\n1,2\n", columns=("a", "b"))) == [
        (2, "too_many_cells: expected 2, found 3", "\\xff,\\xff,3")
    ]


def test_without_quotes_a_quote_is_a_character() -> None:
    rows = rows_of(b'a\tb\n5" disk\t"x\n', columns=("a", "b"), quote=None, delimiter="\t")
    assert good(rows, "a", "b") == [('5" disk', '"x')]


def test_stray_quotes_inside_a_quoted_cell_are_kept() -> None:
    rows = rows_of(b'a,b\n1,"a ""b"" or "split-system""\n2,"x"\n', columns=("a", "b"))
    assert good(rows, "a", "b") == [("1", 'a "b" or "split-system"'), ("2", "x")]


def test_escapes_make_the_next_character_literal() -> None:
    rows = rows_of(b'a,b\n1\\,5,"say \\"hi\\"\\\n"\n', columns=("a", "b"), escape="\\")
    assert good(rows, "a", "b") == [("1,5", 'say "hi"\n')]


def test_an_open_quote_costs_its_line_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "open.csv"
    block = b"".join(b"%d,%d,plain text of some length\n" % (number, number * 7) for number in range(40_000))
    with path.open("wb") as file:
        file.write(b"a,b,c\n" + block + b'7,"open,x\n')
        for _ in range(140):
            file.write(block)
    code = (
        "import json, resource, sys\n"
        "from pathlib import Path\n"
        "from jobs.bronze.formats import delimited, read\n"
        "from jobs.declared.format import Delimited\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "counted, refused = 0, []\n"
        "for batch in read(Path(sys.argv[1]), 'x', Delimited(columns=('a', 'b', 'c'), delimiter=',')):\n"
        "    counted += batch.num_rows\n"
        "    refused += batch.select(['_row', '_refused', '_raw']).to_pylist() if batch.num_rows < 10 else []\n"
        "print(json.dumps([counted, refused, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    counted, refusals, kilobytes = json.loads(done.stdout)
    assert path.stat().st_size > 200_000_000
    assert counted == 141 * 40_000 + 1
    assert refusals == [
        {
            "_row": 40_002,
            "_refused": "quote_not_closed: the quote opened in cell 2 is never closed",
            "_raw": '7,"open,x',
        }
    ]
    assert kilobytes < 150_000


def test_an_endless_line_is_refused_in_bounded_memory() -> None:
    rows = rows_of(b"a,b\n1,2\n" + b"x" * 20_000_000 + b"\n3,4\n", columns=("a", "b"))
    assert good(rows, "a", "b") == [("1", "2"), ("3", "4")]
    assert [(row, reason, len(raw)) for row, reason, raw in refused(rows)] == [
        (3, "record_too_long: expected at most 1048576 bytes", 65536)
    ]


def test_a_wrong_width_without_header_refuses_each_row() -> None:
    rows = rows_of(b"1,2,3\n4,5,6\n", columns=("a", "b"), header=False, delimiter=",")
    assert [reason for _, reason, _ in refused(rows)] == ["too_many_cells: expected 2, found 3"] * 2


PUBLISHED = [
    ("government/cn-customs-by-city/derived-encodings/customs-v2-long.gb18030.csv", "gb18030", ","),
    ("government/cn-customs-by-city/derived-encodings/customs-v2-long.utf16.csv", "utf-16", "\t"),
    ("government/cn-customs-by-city/derived-encodings/customs-v2-long.utf8bom.csv", "utf-8", ","),
]


def test_one_table_in_three_encodings_gives_the_same_rows() -> None:
    tables = []
    for name, encoding, delimiter in PUBLISHED:
        path = publisher_file(name)
        with path.open(encoding="utf-8-sig" if encoding == "utf-8" else encoding, newline="") as file:
            expected = list(csv.DictReader(file, delimiter=delimiter))
        columns = tuple(expected[0])
        rows = rows_in(path, columns=columns, encoding=encoding)
        assert good(rows, *columns) == [tuple(row.values()) for row in expected]
        tables.append(good(rows, *columns))
    assert len(tables[0]) == 234
    assert tables[0] == tables[1] == tables[2]


def test_every_row_of_big5_hkscs_is_read() -> None:
    path = publisher_file("finance/hkex-listings/derived-encodings/hk-listings.2026-01-27.big5hkscs.csv")
    rows = rows_in(path, columns=("symbol", "engName", "zhName", "url"), encoding="big5hkscs")
    with path.open(encoding="big5hkscs", newline="") as file:
        assert good(rows, "symbol", "engName", "zhName", "url") == [tuple(row.values()) for row in csv.DictReader(file)]


def test_passenger_traffic_is_read_despite_bom_and_trailing_comma() -> None:
    path = publisher_file("government/hk-immd-passenger-traffic/statistics_on_daily_passenger_traffic.csv")
    with path.open(encoding="utf-8-sig", newline="") as file:
        expected = [row[:7] for row in csv.reader(file)]
    rows = rows_in(path, columns=tuple(expected[0]))
    assert good(rows, *expected[0]) == [tuple(row) for row in expected[1:]]
    assert {row["_extra"] for row in rows} == {None}
    assert [row["_row"] for row in rows] == list(range(2, len(expected) + 1))


def test_ecb_rates_are_read_from_their_zip() -> None:
    path = publisher_file("finance/ecb-eurofxref/eurofxref-hist.2026-10-30.zip")
    rows = rows_in(path, columns=("Date", "USD", "HKD", "BGN"))
    assert len(rows) == 7126
    assert {row["_member"] for row in rows} == {f"{path.name}!eurofxref-hist.csv"}
    assert len(json.loads(rows[0]["_extra"])) == 38


def test_padded_names_are_matched() -> None:
    path = publisher_file("finance/ecb-eurofxref/eurofxref.csv")
    rows = rows_in(path, columns=("Date", "USD"))
    assert len(rows) == 1
    assert rows[0]["USD"].startswith(" ")
    assert "column_31" not in json.loads(rows[0]["_extra"])


def test_a_stray_quote_in_the_harmonized_system_loses_no_row() -> None:
    folder = publisher_file("government/un-comtrade/reference")
    path = next(folder.glob("harmonized-system.2022-11-05*"))
    rows = rows_in(path, columns=("section", "hscode", "description", "parent", "level"))
    assert refused(rows) == []
    assert len(rows) == 6940
    assert next(row["description"] for row in rows if row["hscode"] == "841510").endswith('or "split-system"')


def test_a_published_header_without_rows_gives_no_row() -> None:
    path = publisher_file("finance/fred-exchange-rates/daily.2026-03-09a.csv")
    header = path.read_text().split("\n", 1)[0].strip().split(",")
    assert rows_in(path, columns=tuple(header)) == []


def test_gdelt_is_read_with_tabs_and_no_header() -> None:
    path = publisher_file("media/gdelt/derived-publisher-layout/gdeltv2/20170501234500.export.CSV.zip")
    columns = tuple(f"c{number}" for number in range(61))
    rows = rows_in(path, columns=columns, header=False, delimiter="\t", quote=None)
    assert len(rows) == 2105
    assert refused(rows) == []


def test_ragged_records_are_completed_alike_by_both_readers() -> None:
    lines = ["a,b,c", "1,2,3", "4", "5,6", "7,8,9,", '"x,y",8,9,,', "7,8,9,z", 's,say "a,b"']
    for bounds in (None, TINY):
        rows = rows_of("\n".join(lines).encode(), bounds, columns=("a", "b", "c"), ragged=True)
        rows.sort(key=lambda row: int(row["_row"]))
        assert good(rows, "a", "b", "c") == [
            ("1", "2", "3"), ("4", "", ""), ("5", "6", ""), ("7", "8", "9"), ("x,y", "8", "9"),
        ]  # fmt: skip
        assert [(row, reason.split(":")[0]) for row, reason, _ in refused(rows)] == [
            (7, "too_many_cells"), (8, "quote_in_cell"),
        ]  # fmt: skip


def test_records_that_all_end_with_a_delimiter_are_read() -> None:
    text = "a,b\n" + "".join(f"{n},x,\n" for n in range(100)) + "5,y\n"
    rows = rows_of(text.encode(), columns=("a", "b"), ragged=True)
    assert sorted(good(rows, "a", "b")) == sorted([*((str(n), "x") for n in range(100)), ("5", "y")])


def test_blanks_around_quotes_are_left_out_where_declared() -> None:
    text = 'a,b\n1, "x, y" \n 2 , z\n'
    rows = rows_of(text.encode(), columns=("a", "b"), blank_before_quote=True)
    assert good(rows, "a", "b") == [("1", "x, y"), (" 2 ", " z")]


def test_a_quote_within_a_bare_cell_shifts_no_cell_unseen() -> None:
    text = 'a,b,c\n1,he said "x, y"\n2,6" pipe,12" pipe\n3,"he said ""x",y"\n'
    rows = rows_of(text.encode(), columns=("a", "b", "c"))
    assert good(rows, "a", "b", "c") == [("2", '6" pipe', '12" pipe'), ("3", 'he said "x', 'y"')]
    assert [reason.split(":")[0] for _, reason, _ in refused(rows)] == ["quote_in_cell"]


def test_marks_and_headers_in_the_middle_are_no_data() -> None:
    text = "\ufeffa,b\n1,x\n\ufeffa,b\r\n\ufeff\"2\",y\na,b\n3,\ufeffz\n"
    rows = rows_of(text.encode(), columns=("a", "b"))
    assert sorted(good(rows, "a", "b")) == [("1", "x"), ("2", "y"), ("3", "\ufeffz")]
    assert [(row, reason.split(":")[0]) for row, reason, _ in refused(rows)] == [
        (3, "repeated_header"), (5, "repeated_header"),
    ]  # fmt: skip
