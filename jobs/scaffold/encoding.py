"""Detects the encoding of a sample, and says where the evidence is thin."""

from __future__ import annotations

import codecs

from jobs.scaffold.alphabets import by_alphabet

# Supersets, because publishers' "GB2312" and "Big5" mostly are.
_WIDER = {
    "gb2312": "gb18030", "gbk": "gb18030", "cp936": "gb18030", "hz": "gb18030", "big5": "big5hkscs",
    "cp950": "big5hkscs", "ascii": "utf-8", "latin_1": "cp1252", "iso8859_1": "cp1252", "utf_8": "utf-8",
    "utf_16": "utf-16",
}  # fmt: skip
_FALLBACKS = ("gb18030", "big5hkscs", "cp1252", "latin-1")
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"), (codecs.BOM_UTF8, "utf-8"),
)  # fmt: skip
_ASCII = b"aZ09,;|\t\r\n\"'.:-_"
_FEW_BYTES = 40
_EXAMINED = 1 << 16
_SHOWN = 80


def encoding_of(head: bytes, *, whole: bool) -> tuple[str, str | None]:
    """Return the encoding in which these bytes decode, and a doubt; for a legacy one its superset, such as gb18030."""
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name, None
    if wide := _with_zero_bytes(head, whole):
        return wide, f"no byte order mark; read as {wide}, because of the zero bytes"
    if decodes(head, "utf-8", whole):
        return "utf-8", None
    lines = [(number, line) for number, line in enumerate(head.splitlines(), start=1) if not line.isascii()]
    broken = [(number, line) for number, line in lines[: None if whole else -1] if not decodes(line, "utf-8", True)]
    if broken and len(broken) * 10 <= len(lines):
        number, line = broken[0]
        shown = line[:_SHOWN].decode("utf-8", "backslashreplace")
        return "utf-8", f"{len(broken)} lines are not UTF-8 and would be refused, the first is line {number}: {shown}"
    name = _legacy(head, b"\n".join(line for _, line in lines)[:_EXAMINED], whole)
    evidence = sum(byte > 127 for _, line in lines for byte in line)
    number, line = lines[0] if lines else (1, head[:_SHOWN])
    shown = line.decode(name, "replace")[:_SHOWN]
    if evidence < _FEW_BYTES:
        return name, f"only {evidence} bytes tell the encoding {name}; see whether line {number} reads well: {shown}"
    return name, f"the encoding {name} is a guess; see whether line {number} reads well: {shown}"


def decodes(head: bytes, encoding: str, whole: bool) -> bool:
    """Whether bytes are text in an encoding; unless ``whole``, they may end within a character."""
    try:
        codecs.getincrementaldecoder(encoding)().decode(head, final=whole)
    except (UnicodeDecodeError, LookupError):
        return False
    return True


def _with_zero_bytes(head: bytes, whole: bool) -> str | None:
    """The encoding of two or four bytes a character without a byte order mark, told by where its zero bytes are."""
    data = head[: 1 << 14]
    if data.count(0) * 50 < len(data) or len(data) < 4:
        return None
    zeros = [data[place::4].count(0) / max(len(data[place::4]), 1) for place in range(4)]
    candidates = []
    if min(zeros[2], zeros[3]) > 0.9 and zeros[0] < 0.1:
        candidates.append("utf-32-le")
    if min(zeros[0], zeros[1]) > 0.9 and zeros[3] < 0.1:
        candidates.append("utf-32-be")
    even, odd = zeros[0] + zeros[2], zeros[1] + zeros[3]
    if odd > 9 * even:
        candidates.append("utf-16-le")
    if even > 9 * odd:
        candidates.append("utf-16-be")
    return next((c for c in candidates if decodes(head, c, whole)), None)


def _legacy(head: bytes, telling: bytes, whole: bool) -> str:
    from charset_normalizer import from_bytes

    told = by_alphabet(telling)
    if told and decodes(head, told, whole):
        return told
    # Lines of plain ASCII tell nothing, and outweigh the others.
    for match in from_bytes(telling or head[:_EXAMINED]):
        name = _WIDER.get(match.encoding, match.encoding)
        # Others, like those of mainframes, would make other characters of the delimiters.
        if _ASCII.decode(name, "replace") == _ASCII.decode() and decodes(head, name, whole):
            return name
    return next((name for name in _FALLBACKS if decodes(head, name, whole)), "utf-8")
