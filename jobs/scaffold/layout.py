"""Detects a sample's format: encoding, then JSON or delimited text with its preamble, header and columns."""

from __future__ import annotations

import codecs
import re
from dataclasses import replace
from typing import Any

from jobs.bronze.formats.text import refuse_page
from jobs.errors import RefusedFile
from jobs.scaffold.delimited import delimited
from jobs.scaffold.encoding import encoding_of
from jobs.scaffold.found import Found
from jobs.scaffold.json_shape import LARGEST_DOCUMENT, document_of, lines_of
from jobs.scaffold.sample import HEAD, Sample

_MARKS = re.compile("(^|[\r\n])\ufeff+")


def form_of(sample: Sample) -> Found:
    """Propose the ``format:`` block for a sample, with the columns named as published.

    Raises:
        RefusedFile: no format reads this file.
        ExchangeError: the sample has no records.
    """
    head = sample.head()
    if not head.strip():
        raise RefusedFile("the file is empty", where=sample.file_name, next_step="use a sample with data in it")
    refuse_page(head, sample.file_name, "delimited text or JSON")
    whole = len(head) < HEAD
    encoding, doubt = encoding_of(head, whole=whole)
    text = _decoded(head, encoding, whole=whole)
    if not text.strip():
        raise RefusedFile("the file has no text", where=sample.file_name, next_step="use a sample with data in it")
    if text.lstrip().startswith("<"):
        raise RefusedFile(
            "the file is an XML document",
            where=sample.file_name,
            expected="delimited text or JSON",
            next_step="ask the publisher for CSV or JSON",
        )
    found = _found(sample, text, encoding, {"encoding": encoding, "members": sample.globs}, whole)
    doubts = [doubt] if doubt else []
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        doubts.append(f"the text has zero bytes, the first in line {line}; they are kept")
    return replace(found, doubts=(*doubts, *found.doubts))


def _found(sample: Sample, text: str, encoding: str, shared: dict[str, Any], whole: bool) -> Found:
    if text.lstrip()[:1] not in ("{", "["):
        return delimited(text, shared, whole=whole)
    found = lines_of(text, shared, whole=whole)
    if found:
        return found
    data = text if whole else _decoded(sample.head(LARGEST_DOCUMENT), encoding, whole=True)
    return document_of(data, shared, sample.file_name)


def _decoded(head: bytes, encoding: str, *, whole: bool) -> str:
    text = codecs.getincrementaldecoder(encoding)(errors="replace").decode(head, final=whole)
    return _MARKS.sub(r"\1", text)
