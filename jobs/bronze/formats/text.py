"""Turns any declared encoding into UTF-8 as it streams, marking what cannot be decoded instead of stopping at it.

Python's decoders stop at such bytes or replace them by U+FFFD, which a file may hold itself. Arrow's reader of
delimited text stops at them too; Polars 2.1 stops, or replaces them as Python does.
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
_MARK = re.compile("[\udc00-\udcff]")


def _mark(error: UnicodeError) -> tuple[str, int]:
    """Stand each undecodable byte for itself as a lone surrogate, which no text holds and UTF-8 refuses."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(chr(0xDC00 + byte) for byte in error.object[error.start : error.end]), error.end


codecs.register_error(MARKS, _mark)


class Utf8:
    """A stream of UTF-8 without byte order mark, from a stream in a declared encoding.

    Undecodable bytes arrive as invalid UTF-8, so that whoever checks a row's UTF-8 finds them whatever the encoding.

    Attributes:
        encoding: as declared.
        head: the first bytes as received, after the first read.
    """

    def __init__(self, stream: Readable, encoding: str) -> None:
        self.encoding = encoding
        self.head = b""
        self._stream = stream
        self._started = False
        self._ended = False
        self._decoder = None
        if codecs.lookup(encoding).name not in {"utf-8", "utf-8-sig"}:
            self._decoder = codecs.getincrementaldecoder(encoding)(errors=MARKS)

    def read(self, size: int, /) -> bytes:
        """Return about ``size`` bytes; nothing only at the end."""
        while not self._ended:
            data = self._stream.read(size)
            self._ended = not data
            self.head = self.head or data[:8192]
            if self._decoder is not None:
                data = self._decoder.decode(data, final=self._ended).encode("utf-8", "surrogatepass")
            if not self._started and data:
                data = self._without_mark(data)
            if data:
                return data
        return b""

    def _without_mark(self, data: bytes) -> bytes:
        while len(data) < len(_BOM) and _BOM.startswith(data) and (more := self._stream.read(len(_BOM))):
            data += more if self._decoder is None else self._decoder.decode(more).encode("utf-8", "surrogatepass")
        self._started = True
        return data.removeprefix(_BOM)

    def why(self, cell: bytes, place: str = "") -> str:
        """Explain why a cell is not text: the encoding, the offset in the cell's own bytes, the byte there."""
        offset, byte = 0, 0
        if self._decoder is None:
            try:
                cell.decode("utf-8")
            except UnicodeDecodeError as error:
                offset, byte = error.start, cell[error.start]
        else:
            text = cell.decode("utf-8", "surrogatepass")
            if found := _MARK.search(text):
                byte = ord(found.group()) - 0xDC00
                offset = len(text[: found.start()].encode(self.encoding, "replace"))
        return f"undecodable: not {self.encoding} at byte {offset} (0x{byte:02x}){place}"

    def show(self, raw: bytes) -> str:
        """Make text of a refused line: undecodable bytes as ``\\xNN``, NUL-safe, cut to 64 KiB."""
        end = min(len(raw), RAW_LIMIT)
        while RAW_LIMIT - 4 < end < len(raw) and raw[end] & 0xC0 == 0x80:
            end -= 1
        return shown(raw[:end].decode("utf-8", MARKS if self._decoder is None else "surrogatepass"))


def shown(text: str) -> str:
    """Make a text that holds marks fit to be stored: each undecodable byte as ``\\xNN``, cut to 64 KiB."""
    marked = _MARK.sub(lambda mark: f"\\x{ord(mark.group()) - 0xDC00:02x}", text[:RAW_LIMIT])
    return marked.encode("utf-8", "backslashreplace").decode("utf-8")


def refuse_page(head: bytes, where: str, expected: str) -> None:
    """Raise RefusedFile when a file begins as an HTML page, which publishers send in place of data they lack."""
    plain = head.replace(b"\0", b"")
    if not _PAGE.match(plain):
        return
    found = _TITLE.search(plain)
    title = " ".join(html.unescape(found.group(1).decode("utf-8", "replace")).split())[:120] if found else ""
    raise RefusedFile(
        "an HTML page" + (f", title {title!r}" if title else " without title"),
        where=where,
        expected=expected,
        next_step="open the address in a browser: the data moved, or it asks for a login or a later try",
    )


def guessed_encoding(head: bytes, names: Sequence[str]) -> str | None:
    """Find the encoding in which the first bytes hold most of the declared names; None when none holds any."""
    for mark, name in ((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"), (_BOM, "utf-8")):
        if head.startswith(mark):
            return name

    def held(encoding: str) -> int:
        try:
            text = codecs.getincrementaldecoder(encoding)().decode(head)
        except UnicodeDecodeError:
            return 0
        return sum(name.strip() in text for name in names)

    best = max(_LIKELY, key=held)
    return best if held(best) else None
