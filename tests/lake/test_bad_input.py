"""Bad input from publishers: each kind has its own message, loses no good row and stops no other file."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile

import pytest

from jobs import lake
from jobs.errors import RefusedFile, Tampered
from jobs.lake.pointers import pointer
from jobs.settings import settings
from tests.lake.trial import FIRST, Source, Trial, balanced, landings, run_steps, runs

READINGS = {"meter": "STRING", "read_on": "DATE", "kwh": "DECIMAL(8,2)"}
HEADER = "meter,read_on,kwh\n"
MANY = (HEADER + "".join(f"m{n},2026-01-01,{n % 97}.{n % 89}\n" for n in range(30_000))).encode()


def zipped(name: str, data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return out.getvalue()


def tarred(**members: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(f"{name}.csv")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


@pytest.fixture
def source(exchange: Trial) -> Source:
    return exchange.source(READINGS, ["meter", "read_on"])


WHOLE = {
    "html": (
        "page.csv",
        b"<!DOCTYPE html><html><head><title>404 Not Found</title></head></html>",
        "HTML page.*404 Not Found",
    ),
    "cut zip": ("cut.zip", zipped("a.csv", MANY)[:-3000], "zip is truncated or damaged"),
    "cut gzip": ("cut.csv.gz", gzip.compress(MANY)[:-100], "truncated or damaged"),
    "empty": ("nothing.csv", b"", "an empty file"),
    "bomb": ("bomb.zip", zipped("a.csv", HEADER.encode() + b"0" * 250_000_000), "zip bomb"),
    "missing column": ("few.csv", b"meter,read_on\nm1,2026-01-01\n", "missing column 'kwh'"),
    "renamed column": (
        "new.csv",
        b"meter,read_on,energy\nm1,2026-01-01,1\n",
        "missing column 'kwh'; undeclared columns: 'energy'",
    ),
    "no header": ("bare.csv", b"m1,2026-01-01,1\n", "missing columns"),
    "another encoding": ("wide.csv", (HEADER + "m1,2026-01-01,1\n").encode("utf-16"), "declare encoding: utf-16"),
    "an error as JSON": ("reply.csv", b'{"error": "rate limit"}', "missing columns"),
}


@pytest.mark.both_engines("a file refused in a Python worker")
@pytest.mark.parametrize("case", WHOLE)
def test_an_unreadable_file_is_recorded_and_reported_and_not_read_again(source: Source, case: str) -> None:
    file, content, message = WHOLE[case]
    source.land(content, file=file)
    assert message.split(".*")[0] in (source.step("bronze").message or "")
    with pytest.raises(RefusedFile, match=message) as refusal:
        source.step("silver")
    assert file in str(refusal.value) and "Next:" in str(refusal.value)
    assert source.last("silver").status == "failed"
    assert [rule for rule, *_ in source.quarantine()] == ["format.file"]
    assert source.bronze("_row", "_file") == [(0, file)], "only the refusal of an unreadable file is kept"
    assert balanced(source.last("silver"))
    again = [source.step(s, 1).status for s in ("land", "bronze", "silver")]
    assert again == ["unchanged"] * 3
    source.take([("m1", "2026-01-01", "1")], 2)
    assert [row[0] for row in source.rows()] == ["m1"]
    assert [rule for rule, *_ in source.quarantine()] == ["format.file"]


def test_a_refused_file_after_good_ones_leaves_the_table_unchanged(source: Source) -> None:
    source.take([("m1", "2026-01-01", "1")], 0)
    current = pointer(source.table)
    source.land(b"<html><body>try later</body></html>", 1, "b.csv")
    source.step("bronze", 1)
    with pytest.raises(RefusedFile, match="HTML"):
        source.step("silver", 1)
    assert current and lake.version(source.table) == current.delta_version
    assert source.step("land", 2).status == "unchanged"


def test_good_files_are_loaded_and_the_bad_one_beside_them_is_reported(source: Source) -> None:
    source.drop([("m1", "2026-01-01", "1")], "a.csv")
    source.drop(b"<html></html>", "b.csv")
    source.drop([("m2", "2026-01-01", "2")], "c.csv")
    assert str(source.step("land").message).endswith(", 3 new")
    source.build()
    assert [row[0] for row in source.rows()] == ["m1", "m2"]
    run = source.last("silver")
    assert run.status == "succeeded" and "b.csv: an HTML page" in (run.message or "")
    assert (run.rows_in, run.rows_out, run.rows_quarantined) == (3, 2, 1)
    assert [(x.file_name, x.rows, x.rows_refused) for x in landings(source.name)] == [
        ("a.csv", 1, 0), ("b.csv", 1, 1), ("c.csv", 1, 0),
    ]  # fmt: skip


def test_a_late_bad_file_does_not_cause_earlier_files_to_be_read_again(source: Source) -> None:
    source.take([("m1", "2026-01-01", "1")], 5)
    source.land(b"<html></html>", 1)
    source.step("bronze", 1)
    with pytest.raises(RefusedFile, match="HTML"):
        source.step("silver", 1)
    assert source.last("silver").rows_in == 1


def test_the_most_frequent_reasons_are_reported_when_no_row_is_usable(source: Source) -> None:
    source.land([("m1", "tomorrow", "1"), ("m2", "soon", "1"), (None, "2026-01-01", "1")], file="odd.csv")
    source.step("bronze")
    with pytest.raises(
        RefusedFile, match=r"odd.csv: none of the 3 rows .*read_on.type: 2, for example 'soon'; meter.required: 1"
    ):
        source.step("silver")
    assert len(source.quarantine()) == 3
    assert source.step("land", 1).status == "unchanged"


def test_an_open_quote_does_not_swallow_the_following_rows(source: Source) -> None:
    source.take((HEADER + 'm1,2026-01-01,1\n"m2,2026-01-01,1\n' + "m3,2026-01-01,3\nm4,2026-01-01,4\n").encode())
    assert {"m1", "m3", "m4"} >= {row[0] for row in source.rows()} >= {"m1"}
    run = source.last("silver")
    assert run.rows_in == 4 and balanced(run)
    assert "format.quote_not_closed" in {rule for rule, *_ in source.quarantine()}


def test_members_of_an_archive_keep_their_names(exchange: Trial) -> None:
    source = exchange.source(READINGS, ["meter", "read_on"], format={"members": ["*.csv"]})
    source.take(
        tarred(a=(HEADER + "m1,2026-01-01,1\nm1,x,1\n").encode(), b=(HEADER + "m2,2026-01-01,2\n").encode()),
        file="both.tgz",
    )
    assert source.rows("_file") == [
        (*row, f"both.tgz!{member}.csv") for row, member in zip(source.rows(), ("a", "b"), strict=True)
    ]
    assert source.quarantine("rule", "_file", "_row") == [("read_on.type", "both.tgz!a.csv", 3)]


def test_missing_landed_bytes_are_reported_and_can_be_landed_again(source: Source) -> None:
    source.land([("m1", "2026-01-01", "1")], file="a.csv")
    landed = settings().home / landings(source.name)[0].path
    landed.unlink()
    with pytest.raises(Tampered, match=r"a\.csv are missing"):
        source.step("bronze")
    source.step("land", 4)
    source.build(4)
    assert [row[0] for row in source.rows()] == ["m1"]


def test_a_run_stops_at_the_step_that_fails(source: Source) -> None:
    from tests.lake.trial import day

    source.drop(b"<html></html>", "a.csv")
    with pytest.raises(RefusedFile, match="HTML"):
        run_steps(source.name, day(0), "r1")
    assert [(r.step, r.status) for r in runs(source.name)] == [
        ("land", "succeeded"), ("bronze", "succeeded"), ("silver", "failed"),
    ]  # fmt: skip
    assert [r.status for r in run_steps(source.name, day(1), "r2")] == ["unchanged"]


def test_a_first_file_with_only_a_header_is_loaded_once(source: Source) -> None:
    source.drop(HEADER, "header.csv")
    assert [r.status for r in run_steps(source.name, FIRST, "r")] == ["succeeded", "succeeded", "unchanged"]
    assert [r.status for r in run_steps(source.name, FIRST, "r")] == ["unchanged"]
    source.take([("m1", "2026-01-01", "1")], 1)
    assert [row[0] for row in source.rows()] == ["m1"]
    assert source.step("land", 2).status == "unchanged"


def test_messages_quote_no_value_of_a_personal_column(exchange: Trial) -> None:
    columns = {"id": "INT", "age": {"physicalType": "INT", "classification": "personal"}}
    source = exchange.source(columns, ["id"])
    source.land("id,age,phone\n1,old-secret,tel-secret\nx,2,tel-secret\n")
    bronze = source.step("bronze").message or ""
    assert "phone" in bronze and "secret" not in bronze
    with pytest.raises(RefusedFile, match=r"id\.type: 1, for example 'x'") as refused:
        source.step("silver")
    assert "age.type: 1" in str(refused.value) and "secret" not in str(refused.value)


def test_a_reader_that_fails_refuses_its_file_only(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    source.drop(b"meter,read_on,kwh\nm1,2026-01-01,1\n", "good.csv")
    source.land(b"meter,read_on,kwh\nbroken,2026-01-01,1\n", file="bad.csv")
    from jobs.bronze import formats

    read = formats.read

    def fail_on_one(path, name, form):
        if name == "bad.csv":
            raise RecursionError("cell secret")
        yield from read(path, name, form)

    monkeypatch.setattr(formats, "read", fail_on_one)
    assert source.step("bronze").message == "bad.csv: the reader of delimited failed (RecursionError)"
    assert source.step("silver").rows == 1
