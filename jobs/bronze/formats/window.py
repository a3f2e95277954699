"""A bounded stretch of a text stream that always begins at a record and knows its line number.

The libraries' readers (see `careful`) own the stream and cut it by bytes or rows; none can resume at a given line.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jobs.land import Readable

Positions = npt.NDArray[np.int64]
_LF, _CR = 10, 13


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits on the text in memory, in bytes.

    Attributes:
        block: read and parsed at a time; at least ``step + record + 2``.
        record: maximum size of one record.
        step: read by the careful reader before the fast one is tried again.
    """

    block: int = 2 << 20
    record: int = 1 << 20
    step: int = 768 << 10


BOUNDS = Bounds()


class ByteWindow:
    """The bytes of a stream that have not been read as records yet.

    Attributes:
        data: at least ``block`` bytes after ``fill``, unless the stream has ended; never ends between CR and LF.
        line: number of the physical line (from 1) that ``data`` begins with.
        ended: whether the stream ends with ``data``.
    """

    def __init__(self, stream: Readable, block: int = BOUNDS.block) -> None:
        self.data = b""
        self.line = 1
        self.ended = False
        self._stream = stream
        self._block = block

    def fill(self) -> bool:
        """Read until there is a block; return False when nothing is left."""
        parts, size = [self.data], len(self.data)
        while not self.ended and (size < self._block or parts[-1].endswith(b"\r")):
            more = self._stream.read(max(self._block - size, 4096))
            self.ended = not more
            parts.append(more)
            size += len(more)
        self.data = b"".join(parts)
        return bool(self.data)

    def advance(self, size: int, lines: int) -> None:
        """Move past ``size`` bytes that hold ``lines`` physical lines."""
        self.data = self.data[size:]
        self.line += lines

    def skip_line(self, keep: int) -> bytes:
        """Move past one physical line of any length in bounded memory; return its first ``keep`` bytes."""
        kept = b""
        while self.fill():
            end, following = first_line(self.data)
            kept += self.data[: min(end, max(keep - len(kept), 0))]
            if following > end or self.ended:
                self.advance(following, 1)
                break
            self.data = b""
        return kept


def cut(data: bytes, size: int) -> bytes:
    """The first ``size`` bytes or so, never ending between CR and LF."""
    return data[: size + 1] if data[size - 1 : size + 1] == b"\r\n" else data[:size]


def first_line(data: bytes, start: int = 0) -> tuple[int, int]:
    """Where the line that begins at ``start`` ends, and where the next one begins (the same at the end)."""
    feed = data.find(b"\n", start)
    end = feed if feed >= 0 else len(data)
    back = data.find(b"\r", start, end)
    if back >= 0:
        return back, back + 2 if back + 1 == feed else back + 1
    return end, min(end + 1, len(data))


def line_ends(data: bytes | memoryview) -> tuple[Positions, Positions]:
    """Where every physical line ends, and where the next one begins.

    Lines end with LF, CRLF or CR, in any mix. Text after the last line end is not counted.
    """
    view = np.frombuffer(data, dtype=np.uint8)
    feeds = np.flatnonzero(view == _LF)
    returns = np.flatnonzero(view == _CR)
    if not len(returns):
        return feeds, feeds + 1
    followed = np.zeros(len(returns), dtype=bool)
    inner = returns + 1 < len(view)
    followed[inner] = view[returns[inner] + 1] == _LF
    preceded = np.zeros(len(feeds), dtype=bool)
    later = feeds > 0
    preceded[later] = view[feeds[later] - 1] == _CR
    ends = np.sort(np.concatenate([returns, feeds[~preceded]]))
    length = np.ones(len(ends), dtype=np.int64)
    length[np.searchsorted(ends, returns[followed])] = 2
    return ends, ends + length


def has_overlong_line(data: bytes, end: int, limit: int) -> bool:
    """Check quickly whether ``data[:end]`` may hold a line longer than ``limit`` (False is always right)."""
    half = limit // 2
    return any(
        data.find(b"\n", start, start + half) < 0 and data.find(b"\r", start, start + half) < 0
        for start in range(0, end - half + 1, half)
    )
