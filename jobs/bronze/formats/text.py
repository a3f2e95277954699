"""Converts a stream from any declared encoding to UTF-8, marking undecodable bytes instead of stopping at them.

Python's decoders stop at such bytes or replace them with U+FFFD, which a file may legitimately contain. Arrow's reader
of delimited text stops at them too; Polars 2.1 stops, or replaces them as Python does.
"""

from __future__ import annotations

import codecs
import html
import re
from collections.abc import Sequence

from jobs.errors import RefusedFile
from jobs.land import Readable

RAW_LIMIT = 64 << 10

MARKS = "exchange.marks"

_LIKELY = ("utf-8", "gb18030", "big5hkscs", "utf-16-le", "utf-16-be", "shift_jis", "euc_kr", "cp1252")
_BOM = codecs.BOM_UTF8
_PAGE = re.compile(
    rb"[\s\xff\xfe\xef\xbb\xbf]*(?:<!--.*?-->\s*)*(?:<\?xml[^>]*>\s*)?<(?:!doctype\s+html|html|head|body)\b",
    re.I | re.S,
)
_TITLE = re.compile(rb"<title[^>]*>(.*?)</title", re.I | re.S)
_MARKED_LINE = re.compile(b"([\r\n])(?:" + _BOM + b")+")
_MARK = re.compile("[\udc00-\udcff]")


def _mark(error: UnicodeError) -> tuple[str, int]:
    """Replace each undecodable byte with a lone surrogate of its value, which no text holds and UTF-8 rejects."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(chr(0xDC00 + byte) for byte in error.object[error.start : error.end]), error.end


codecs.register_error(MARKS, _mark)


class Utf8:
    """A UTF-8 stream without byte order marks, from a stream in a declared encoding.

    Undecodable bytes become invalid UTF-8, so that checking a row's UTF-8 finds them in any encoding.

    Attributes:
        encoding: as declared.
        head: the first bytes as received, after the first read.
    """

    def __init__(self, stream: Readable, encoding: str) -> None:
        self.encoding = encoding
        self.head = b""
        self._stream = stream
        self._ended = False
        self._held = b""
        self._is_line_start = True
        self._decoder = None
        if codecs.lookup(encoding).name not in {"utf-8", "utf-8-sig"}:
            self._decoder = codecs.getincrementaldecoder(encoding)(errors=MARKS)

    def read(self, size: int, /) -> bytes:
        """Return about ``size`` bytes; empty only at the end."""
        while not self._ended:
            data = self._stream.read(size)
            self._ended = not data
            self.head = self.head or data[:8192]
            data = self._without_marks(self._decoded(data))
            if data:
                return data
        return b""

    def _decoded(self, data: bytes) -> bytes:
        if self._decoder is None:
            return data
        try:
            return self._decoder.decode(data, final=self._ended).encode("utf-8", "surrogatepass")
        except UnicodeError as error:
            # Not one wrong byte, which would be marked: utf-16 and utf-32 need a byte order mark at the beginning.
            raise RefusedFile(
                f"cannot be read as {self.encoding}: {error}",
                expected=f"{self.encoding} text",
                next_step="declare the encoding with its byte order, like utf-16-le or utf-16-be",
            ) from error

    def _without_marks(self, data: bytes) -> bytes:
        """Drop byte order marks at the start of lines: files that were joined have them in the middle."""
        data, self._held = self._held + data, b""
        part = next((p for p in (_BOM[:2], _BOM[:1]) if data.endswith(p)), b"")
        if part and not self._ended:
            before = data[-len(part) - 1 : -len(part)]
            if before in (b"\n", b"\r") or (not before and self._is_line_start):
                data, self._held = data[: -len(part)], part
        if not data:
            return data
        if _BOM in data:
            data = _MARKED_LINE.sub(rb"\1", data)
            while self._is_line_start and data.startswith(_BOM):
                data = data.removeprefix(_BOM)
        if data:
            self._is_line_start = data[-1:] in b"\r\n"
        return data

    def why(self, cell: bytes, place: str = "") -> str:
        """Explain why a cell is undecodable: the encoding, and the offset and value of the byte in the cell."""
        offset, byte = 0, 0
        if self._decoder is None:
            try:
                cell.decode("utf-8")
            except UnicodeDecodeError as error:
                offset, byte = error.start, cell[error.start]
        else:
            text = cell.decode("utf-8", "surrogatepass")
            if mark := _MARK.search(text):
                byte = ord(mark.group()) - 0xDC00
                offset = len(text[: mark.start()].encode(self.encoding, "replace"))
        return f"undecodable: not {self.encoding} at byte {offset} (0x{byte:02x}){place}"

    def show(self, raw: bytes) -> str:
        """A refused line as printable text: undecodable bytes as ``\\xNN``, NUL-safe, truncated to 64 KiB."""
        end = min(len(raw), RAW_LIMIT)
        while RAW_LIMIT - 4 < end < len(raw) and raw[end] & 0xC0 == 0x80:
            end -= 1
        return shown(raw[:end].decode("utf-8", MARKS if self._decoder is None else "surrogatepass"))


def shown(text: str) -> str:
    """Make marked text storable: each undecodable byte as ``\\xNN``, truncated to 64 KiB."""
    marked = _MARK.sub(lambda mark: f"\\x{ord(mark.group()) - 0xDC00:02x}", text[:RAW_LIMIT])
    return marked.encode("utf-8", "backslashreplace").decode("utf-8")


def refuse_page(head: bytes, where: str, expected: str) -> None:
    """Raise RefusedFile if a file begins like an HTML page, which publishers send instead of missing data."""
    plain = head.replace(b"\0", b"")
    if not _PAGE.match(plain):
        return
    match = _TITLE.search(plain)
    title = " ".join(html.unescape(match.group(1).decode("utf-8", "replace")).split())[:120] if match else ""
    raise RefusedFile(
        "an HTML page" + (f", title {title!r}" if title else " without a title"),
        where=where,
        expected=expected,
        next_step="open the address in a browser: the data may have moved, need a login, or be unavailable for now",
    )


def guessed_encoding(head: bytes, names: Sequence[str]) -> str | None:
    """The encoding in which the first bytes contain most of the declared names; None if no encoding yields any."""
    for mark, name in ((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"), (_BOM, "utf-8")):
        if head.startswith(mark):
            return name

    def names_in(encoding: str) -> int:
        try:
            text = codecs.getincrementaldecoder(encoding)().decode(head)
        except UnicodeDecodeError:
            return 0
        return sum(name.strip() in text for name in names)

    best = max(_LIKELY, key=names_in)
    return best if names_in(best) else None
