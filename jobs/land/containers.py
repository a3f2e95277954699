"""Opens the containers that publishers wrap data in (gz, zip, tar) as bounded streams; no member reaches the disk."""

from __future__ import annotations

import gzip
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import IO, Protocol, Self

from jobs.errors import NotFound, RefusedFile

HEAD = 1024
CHUNK = 1 << 18
MEMBER_LIMIT = 20 << 30
# Publishers' tables unpack to 5 to 50 times their size; what a packer can do at most is 1,000 times.
RATIO_LIMIT = 200
RATIO_FREE = 100 << 20
# A long name, or extended attributes, of a tar's member; the standard library reads them whole before the member shows.
_LONGEST_HEADER = 1 << 20
_HEADERS = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
)  # fmt: skip

# What the standard library raises on damaged or truncated bytes. A failing disk raises OSError, which is not damage.
_DAMAGE = (zlib.error, gzip.BadGzipFile, zipfile.BadZipFile, tarfile.TarError, EOFError, NotImplementedError)

_GZIP, _ZIP = b"\x1f\x8b", (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_AS_CSV = "save each sheet as CSV (UTF-8) and take that, or ask the publisher for CSV"
_AS_TABLE = "ask the publisher for the tables in it as CSV; no table is read out of a document"
_UNPACKED = "unpack it and take the data inside, plain or in a gz, zip or tar"
# What begins a file that is no text: its kind, and what to do about it.
_FOREIGN = {
    b"%PDF-": ("a PDF document", _AS_TABLE),
    b"PAR1": ("a Parquet file", "write it as CSV, for example with pyarrow or DuckDB, or ask the publisher for CSV"),
    b"SQLite format 3\x00": (
        "an SQLite database", "write each table as CSV: sqlite3 -header -csv FILE 'select * from TABLE' > TABLE.csv",
    ),
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": ("an old Office document (xls, doc)", _AS_CSV),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", _UNPACKED),
    b"Rar!\x1a\x07": ("a RAR archive", _UNPACKED),
    b"BZh": ("a bzip2 file", _UNPACKED),
    b"\xfd7zXZ\x00": ("an xz file", _UNPACKED),
    b"\x28\xb5\x2f\xfd": ("a Zstandard file", _UNPACKED),
    b"\x80\x04\x95": ("a Python pickle", "ask the publisher for the data as text; opening a pickle runs code"),
    b"{\\rtf": ("a rich text document (rtf)", _AS_TABLE),
}  # fmt: skip
# Folders in the zip that an Office document is, and the types that an OpenDocument names itself.
_OFFICE = {
    "xl": ("an Excel workbook (xlsx)", _AS_CSV),
    "word": ("a Word document (docx)", _AS_TABLE),
    "ppt": ("a PowerPoint presentation (pptx)", _AS_TABLE),
}
_OPEN_DOCUMENTS = {
    b"spreadsheet": ("an OpenDocument spreadsheet (ods)", _AS_CSV),
    b"text": ("an OpenDocument text (odt)", _AS_TABLE),
}


class Readable(Protocol):
    """All that a format needs from a stream."""

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes; empty only at the end."""


@dataclass(frozen=True, slots=True)
class Member:
    """One data file: the landed file itself or a member of it. Its stream is valid until the next member is opened."""

    name: str
    stream: Readable


def members(path: Path, file_name: str, globs: Sequence[str] = ()) -> Iterator[Member]:
    """Open the data files inside a landed file, one after the other.

    The first bytes decide what a file is, not its name. A gz is one member. In a zip or tar, the members that match
    ``globs`` are opened; without globs it must hold exactly one file. A member may itself be a gz; a zip or tar inside
    an archive is refused.

    Raises:
        NotFound: the file does not exist.
        RefusedFile: the file is truncated, damaged, encrypted or unpacks to too much, or no member matches.
    """
    try:
        raw = path.open("rb")
    except FileNotFoundError as error:
        raise NotFound("the landed file is missing", where=str(path), next_step="restore it from a backup") from error
    with raw:
        budget = Budget(file_name, path.stat().st_size)
        head = raw.read(HEAD)
        raw.seek(0)
        if head.startswith(_ZIP):
            yield from _zip_members(raw, file_name, globs, budget)
        elif head.startswith(_GZIP):
            yield from _gz_members(raw, file_name, globs, budget)
        elif _is_tar(head, file_name):
            yield from _tar_members(raw, file_name, globs, budget)
        else:
            yield Member(file_name, _plain(file_name, raw, head))


def _gz_members(raw: Readable, file_name: str, globs: Sequence[str], budget: Budget) -> Iterator[Member]:
    stream = Guarded(_unpacked(raw), file_name, budget)
    head = _read_fully(stream, HEAD)
    whole = _Rest(head, stream)
    if _is_tar(head, file_name):
        yield from _tar_members(whole, file_name, globs, budget)
    elif head.startswith((*_ZIP, _GZIP)):
        raise _nested(file_name)
    else:
        yield Member(file_name, _plain(file_name, whole, head))


def _unpacked(raw: Readable) -> Readable:
    return gzip.GzipFile(fileobj=raw, mode="rb")  # type: ignore[call-overload, no-any-return]  # only read() is used


def _zip_members(raw: IO[bytes], file_name: str, globs: Sequence[str], budget: Budget) -> Iterator[Member]:
    try:
        archive = zipfile.ZipFile(raw)
    except (zipfile.BadZipFile, EOFError, OSError, ValueError) as error:
        raise _truncated(file_name, "zip", error) from error
    with archive:
        files = [info for info in archive.infolist() if not info.is_dir() and not _is_clutter(info.filename)]
        names = [info.filename for info in files]
        refuse_document(archive, file_name)
        chosen = _chosen(names, globs, file_name)
        budget.expect(sum(info.file_size for info in files if info.filename in chosen))
        for info in (info for info in files if info.filename in chosen):
            name = f"{file_name}!{info.filename}"
            if info.flag_bits & 0x1:
                raise RefusedFile(
                    "the member is encrypted", where=name, next_step="ask the publisher for a file without a password"
                )
            try:
                member = archive.open(info)
            except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError) as error:
                raise _truncated(name, "zip member", error) from error
            with member:
                yield _inner(Guarded(member, name, budget), name, budget)


def _tar_members(raw: Readable, file_name: str, globs: Sequence[str], budget: Budget) -> Iterator[Member]:
    tail = _Tail(raw)
    seen: list[str] = []
    opened: list[str] = []
    try:
        with tarfile.open(fileobj=tail, mode="r|", tarinfo=_Header) as archive:  # type: ignore[call-overload]  # only read() is used
            for info in archive:
                if not info.isfile() or _is_clutter(info.name):
                    continue
                seen.append(info.name)
                if globs and not _matches(info.name, globs):
                    continue
                if opened and not globs:
                    raise _several(file_name, seen)
                opened.append(info.name)
                name = f"{file_name}!{info.name}"
                content = archive.extractfile(info)
                if content is not None:
                    yield _inner(Guarded(content, name, budget), name, budget)
    except tarfile.TarError as error:
        raise _truncated(file_name, "tar", error) from error
    if not tail.is_closed_properly():
        raise _truncated(file_name, "tar", "its end-of-archive marker is missing")
    if not opened:
        _chosen(seen, globs, file_name)


def _inner(stream: Readable, name: str, budget: Budget) -> Member:
    head = _read_fully(stream, HEAD)
    whole = _Rest(head, stream)
    if head.startswith(_ZIP) or _is_tar(head, name):
        raise _nested(name)
    if not head.startswith(_GZIP):
        return Member(name, _plain(name, whole, head))
    unpacked = Guarded(_unpacked(whole), name, budget)
    head = _read_fully(unpacked, HEAD)
    if head.startswith((*_ZIP, _GZIP)) or _is_tar(head, ""):
        raise _nested(name)
    return Member(name, _plain(name, _Rest(head, unpacked), head))


def _plain(name: str, stream: Readable, head: bytes) -> Readable:
    for magic, (kind, next_step) in _FOREIGN.items():
        if head.startswith(magic):
            raise _foreign(name, kind, next_step)
    return stream


def _chosen(names: list[str], globs: Sequence[str], where: str) -> set[str]:
    if not names:
        raise RefusedFile("the archive holds no file", where=where, next_step="ask the publisher for the data")
    if globs:
        chosen = {name for name in names if _matches(name, globs)}
        if chosen:
            return chosen
        near = list(dict.fromkeys(near for glob in globs for near in get_close_matches(glob, names, 5, 0.3))) or names
        raise RefusedFile(
            f"no member of the archive matches {', '.join(globs)}",
            where=where,
            expected=f"one of {_listed(near)}",
            next_step="correct `members:` in the format block",
        )
    if len(names) > 1:
        raise _several(where, names)
    return set(names)


def _matches(name: str, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(name if "/" in glob else PurePosixPath(name).name, glob) for glob in globs)


def _is_clutter(name: str) -> bool:
    path = PurePosixPath(name)
    return path.name.startswith(".") or "__MACOSX" in path.parts


def _is_tar(head: bytes, name: str) -> bool:
    return head[257:262] == b"ustar" or (name.lower().endswith(".tar") and len(head) >= 512)


def _read_fully(stream: Readable, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := stream.read(size - len(data))):
        data += more
    return data


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _several(where: str, names: list[str]) -> RefusedFile:
    return RefusedFile(
        f"the archive holds several files: {_listed(names)}",
        where=where,
        expected="one file, or `members:` in the declaration",
        next_step='choose with `members:` in the format block, for example `members: ["*.csv"]`',
    )


def _nested(where: str) -> RefusedFile:
    return RefusedFile(
        "an archive inside an archive",
        where=where,
        expected="at most a gz inside a zip or tar",
        next_step="ask the publisher for the inner archive",
    )


def refuse_document(archive: zipfile.ZipFile, where: str) -> None:
    """Raise RefusedFile if a zip is an Office document or an OpenDocument, which are no archives of data."""
    names = archive.namelist()
    if "[Content_Types].xml" in names:
        folders = {name.split("/")[0] for name in names}
        found = [document for folder, document in _OFFICE.items() if folder in folders]
        raise _foreign(where, *(found or [("an Office document", _AS_CSV)])[0])
    if names[:1] == ["mimetype"]:
        try:
            with archive.open("mimetype") as stream:
                kind = stream.read(HEAD)
        except (*_DAMAGE, OSError, RuntimeError):
            # A damaged or encrypted member, which reading refuses.
            return
        if kind.startswith(b"application/vnd.oasis.opendocument."):
            found = [document for word, document in _OPEN_DOCUMENTS.items() if kind.endswith(word)]
            raise _foreign(where, *(found or [("an OpenDocument file", _AS_TABLE)])[0])


def _foreign(where: str, kind: str, next_step: str) -> RefusedFile:
    return RefusedFile(
        f"{kind} instead of text",
        where=where,
        expected="delimited text or JSON, plain or in a gz, zip or tar",
        next_step=next_step,
    )


def _truncated(where: str, part: str, detail: object) -> RefusedFile:
    return RefusedFile(
        f"the {part} is truncated or damaged ({str(detail).strip().rstrip('.') or type(detail).__name__})",
        where=where,
        next_step="fetch it again; if it is still damaged, tell the publisher",
    )


class Budget:
    """Counts the bytes unpacked from one landed file, so that a small file cannot unpack without end."""

    def __init__(self, file_name: str, packed: int) -> None:
        self.file_name = file_name
        self._packed = packed
        self._unpacked = 0

    def spend(self, size: int) -> None:
        """Count bytes; raise RefusedFile when they are out of proportion to the packed size."""
        self._unpacked += size
        self.expect(0)

    def expect(self, size: int) -> None:
        """Raise RefusedFile if bytes still to come, as an archive declares them, would be out of proportion."""
        size += self._unpacked
        if size > RATIO_FREE and size > RATIO_LIMIT * self._packed:
            raise RefusedFile(
                f"{self._packed} bytes unpack to more than {size} bytes: a zip bomb",
                where=self.file_name,
                expected=f"at most {RATIO_LIMIT} times the packed size",
                next_step="inspect the file before you trust its publisher again",
            )


class Guarded:
    """A stream of unpacked bytes that counts them and raises RefusedFile on any damage."""

    def __init__(self, stream: Readable, name: str, budget: Budget) -> None:
        self._stream = stream
        self._name = name
        self._budget = budget
        self._size = 0

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes; raise RefusedFile if they are damaged or too many."""
        try:
            data = self._stream.read(size)
        except _DAMAGE as error:
            raise _truncated(self._name, "packed data", error) from error
        self._size += len(data)
        if self._size > MEMBER_LIMIT:
            raise RefusedFile(
                f"unpacks to more than {MEMBER_LIMIT >> 30} GiB",
                where=self._name,
                next_step="ask the publisher to split it",
            )
        self._budget.spend(len(data))
        return data


class _Rest:
    """A stream whose head was already read."""

    def __init__(self, head: bytes, stream: Readable) -> None:
        self._head = head
        self._stream = stream

    def read(self, size: int, /) -> bytes:
        if not self._head:
            return self._stream.read(size)
        data, self._head = self._head[:size], self._head[size:]
        return data


class _Header(tarfile.TarInfo):
    """A member's header, which is refused if what belongs to it would fill the memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        found = super().frombuf(buf, encoding, errors)
        if found.type in _HEADERS and found.size > _LONGEST_HEADER:
            raise tarfile.ReadError(f"a header of {found.size} bytes, where at most {_LONGEST_HEADER} are read")
        return found


class _Tail:
    """Remembers the end of a tar, because the standard library takes a truncated one for complete."""

    def __init__(self, raw: Readable) -> None:
        self._raw = raw
        self._last = b""

    def read(self, size: int, /) -> bytes:
        data = self._raw.read(size)
        self._last = (self._last + data)[-1024:] if len(data) < 1024 else data[-1024:]
        return data

    def is_closed_properly(self) -> bool:
        while self.read(CHUNK):
            pass
        return self._last == bytes(1024)
