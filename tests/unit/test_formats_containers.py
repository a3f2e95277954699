"""gz, zip and tar: opened as streams, refused if damaged, encrypted, nested or a bomb."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.bronze.formats import read
from jobs.declared.format import Delimited
from jobs.errors import NotFound, RefusedFile
from jobs.land import containers as module
from jobs.land.containers import members

CSV = b"a,b\n1,2\n3,4\n"


def landed(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "landed"
    path.write_bytes(data)
    return path


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tarred(files: dict[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]  # a mode of tarfile
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def cells(path: Path, name: str = "x", **form: Any) -> list[tuple[Any, ...]]:
    batches = read(path, name, Delimited(columns=("a", "b"), **form))
    return [(row["_member"], row["a"], row["b"]) for batch in batches for row in batch.to_pylist()]


@pytest.mark.parametrize(
    ("data", "member"),
    [
        (CSV, "x"),
        (gzip.compress(CSV), "x"),
        (gzip.compress(CSV[:5]) + gzip.compress(CSV[5:]) + bytes(512), "x"),
        (zipped({"d/": b"", "d/in.csv": CSV, "__MACOSX/._in.csv": b"junk", ".DS_Store": b"junk"}), "x!d/in.csv"),
        (zipped({"in.csv.gz": gzip.compress(CSV)}), "x!in.csv.gz"),
        (zipped({"in.csv": CSV}, zipfile.ZIP_BZIP2), "x!in.csv"),
        (tarred({"in.csv": CSV}), "x!in.csv"),
        (tarred({"in.csv": CSV}, "w:gz"), "x!in.csv"),
        (tarred({"in.csv.gz": gzip.compress(CSV)}), "x!in.csv.gz"),
    ],
)
def test_every_container_gives_the_same_rows(tmp_path: Path, data: bytes, member: str) -> None:
    assert cells(landed(tmp_path, data)) == [(member, "1", "2"), (member, "3", "4")]


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_several_members_are_chosen_by_glob(tmp_path: Path, pack: Any) -> None:
    path = landed(tmp_path, pack({"one.csv": CSV, "sub/two.csv": b"b,a\n9,8\n", "readme.txt": b"hello"}))
    assert cells(path, members=("*.csv",)) == [
        ("x!one.csv", "1", "2"), ("x!one.csv", "3", "4"), ("x!sub/two.csv", "8", "9"),
    ]  # fmt: skip
    with pytest.raises(RefusedFile, match=r"several files: one\.csv, sub/two\.csv"):
        cells(path)
    with pytest.raises(RefusedFile, match=r"no member of the archive matches \*\.tsv"):
        cells(path, members=("*.tsv",))


@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(CSV * 5000),
        zipped({"in.csv": CSV * 5000}),
        tarred({"in.csv": CSV * 5120})[:-10240],
        tarred({"in.csv": CSV}, "w:gz"),
    ],
)
@pytest.mark.parametrize("part", [0.3, 0.7, 0.98])
def test_a_truncated_archive_is_refused(tmp_path: Path, data: bytes, part: float) -> None:
    with pytest.raises(RefusedFile, match="truncated or damaged"):
        cells(landed(tmp_path, data[: int(len(data) * part)]))


@settings(max_examples=60)
@given(where=st.integers(0, 10_000), bit=st.integers(0, 7), kind=st.sampled_from(["gz", "zip", "tar.gz"]))
def test_a_flipped_bit_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, where: int, bit: int, kind: str
) -> None:
    plain = b"a,b\n" + b"".join(b"%d,%d\n" % (number, number * number) for number in range(300))
    packed = {"gz": gzip.compress(plain), "zip": zipped({"in.csv": plain}), "tar.gz": tarred({"in.csv": plain}, "w:gz")}
    data = bytearray(packed[kind])
    data[where % len(data)] ^= 1 << bit
    path = landed(tmp_path_factory.mktemp("flip"), bytes(data))
    try:
        rows = cells(path)
    except RefusedFile:
        return
    assert [row[1:] for row in rows] == [(str(number), str(number * number)) for number in range(300)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (zipped({"in.zip": zipped({"x": CSV})}), "an archive inside an archive"),
        (zipped({"in.tar": tarred({"x": CSV})}), "an archive inside an archive"),
        (gzip.compress(gzip.compress(CSV)), "an archive inside an archive"),
        (gzip.compress(zipped({"x": CSV})), "an archive inside an archive"),
        (zipped({"in.gz": gzip.compress(gzip.compress(CSV))}), "an archive inside an archive"),
        (zipped({"[Content_Types].xml": b"", "xl/a.xml": b""}), "an Excel workbook (xlsx) instead of text"),
        (zipped({"[Content_Types].xml": b"", "word/a.xml": b""}), "a Word document (docx)"),
        (zipped({"mimetype": b"application/vnd.oasis.opendocument.spreadsheet", "a.xml": b""}), "spreadsheet (ods)"),
        (b"SQLite format 3\x00...", "sqlite3 -header -csv"),
        (zipped({}), "the archive holds no file"),
        (gzip.compress(b""), "an empty file"),
        (b"%PDF-1.7 ...", "a PDF document instead of text"),
        (b"PAR1....", "a Parquet file instead of text"),
        (gzip.compress(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"), "an old Office document"),
        (b"\x80\x04\x95abc", "a Python pickle"),
    ],
)
def test_content_that_is_not_text_is_refused_by_name(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(RefusedFile) as caught:
        cells(landed(tmp_path, data))
    assert message in str(caught.value)


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    data = bytearray(zipped({"in.csv": CSV}))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + offset] |= 1
    with pytest.raises(RefusedFile, match="encrypted"):
        cells(landed(tmp_path, bytes(data)))


def test_a_zip_bomb_is_refused_long_before_it_is_unpacked(tmp_path: Path) -> None:
    packer = zlib.compressobj(9, wbits=31)
    line = (b"1," + b"2" * 65533 + b"\n") * 16
    data = packer.compress(b"a,b\n") + b"".join(packer.compress(line) for _ in range(200)) + packer.flush()
    # Compression reaches 1000:1 at most, so a bomb is compressed twice.
    path = landed(tmp_path, zipped({"in.csv.gz": data}))
    assert path.stat().st_size < 20_000
    unpacked = 0
    with pytest.raises(RefusedFile, match="zip bomb"):
        for batch in read(path, "x", Delimited(columns=("a", "b"))):
            unpacked += batch.num_rows << 16
    assert unpacked < 200 << 20


def test_a_bomb_below_the_best_compression_is_refused_early(tmp_path: Path) -> None:
    packer = zlib.compressobj(9, wbits=31)
    line = b"1," + b"2" * 1000 + b"\n"
    bomb = packer.compress(b"a,b\n") + b"".join(packer.compress(line * 1000) for _ in range(150)) + packer.flush()
    assert 200 < 150 * len(line) * 1000 / len(bomb) < 1000
    unpacked = 0
    with pytest.raises(RefusedFile, match="zip bomb"):
        for batch in read(landed(tmp_path, bomb), "x", Delimited(columns=("a", "b"))):
            unpacked += batch.nbytes
    assert unpacked < 150 << 20


def test_a_zip_that_declares_too_much_is_refused_unread(tmp_path: Path) -> None:
    path = landed(tmp_path, zipped({f"{n}.csv": b"1,2\n" * (10 << 20) for n in range(3)}))
    with pytest.raises(RefusedFile, match="zip bomb"):
        next(members(path, "in.zip", ["*.csv"]))


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE])
@pytest.mark.parametrize("packed", [False, True])
def test_a_tar_header_that_would_fill_the_memory_is_refused_unread(tmp_path: Path, kind: bytes, packed: bool) -> None:
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = kind, 3 << 30
    data = header.tobuf(tarfile.GNU_FORMAT) + b"x" * (4 << 20)
    with pytest.raises(RefusedFile, match="a header of 3221225472 bytes"):
        list(members(landed(tmp_path, gzip.compress(data, 1) if packed else data), "in.tar"))


def test_a_member_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MEMBER_LIMIT", 1 << 10)
    with pytest.raises(RefusedFile, match="unpacks to more than"):
        cells(landed(tmp_path, gzip.compress(CSV * 1000)))


def test_a_missing_landed_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="the landed file is missing"):
        list(members(tmp_path / "gone", "gone.csv"))
