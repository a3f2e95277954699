"""Tells a draft from a declaration that may be published: what in a product's files nobody has written or reviewed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jobs.declared.catalog import Licence, Product
from jobs.declared.contract import Contract
from jobs.declared.yaml_file import mistake, read_yaml
from jobs.errors import DeclarationError

# What proposals leave for a person to write.
TO_BE_WRITTEN = "to be written"
# RFC 2606 reserves this top-level domain, so the address can never be a real one.
NO_ADDRESS = "https://to-be-written.invalid/"

_RESERVED = ".invalid"
_NO_LICENCE = frozenset({"unknown", "none", "tbd", "todo", "n/a", "?", TO_BE_WRITTEN})
# The standard's states of a contract whose table may be sold.
_PUBLISHED = ("active", "deprecated")

_Place = tuple[str | int, ...]


def names_terms(licence: Licence) -> bool:
    """Whether a licence is one, rather than a placeholder for it."""
    return licence.id.strip().lower() not in _NO_LICENCE and not _is_reserved(licence.url)


def is_written(text: str) -> bool:
    """Whether a text is more than the placeholder that a proposal leaves."""
    return bool(text.strip()) and TO_BE_WRITTEN not in text.lower()


def unfinished(product: Product, contract: Contract) -> tuple[DeclarationError, ...]:
    """What keeps a product from being released although it can be built and checked; empty if nothing does.

    Raises:
        DeclarationError: product.yaml is no longer readable.
    """
    return (*_in_declaration(product), *_in_contract(contract))


def _is_reserved(url: str) -> bool:
    return (urlsplit(url).hostname or "").endswith(_RESERVED)


def _in_declaration(product: Product) -> Iterator[DeclarationError]:
    declared, file = product.declared, product.file
    if declared.status == "draft":
        yield _draft(file, "the product is a draft", "status: active")
    if not declared.owner.strip():
        yield mistake(file, "the product has no owner", ("owner",), expected="who answers for it")
    if not names_terms(declared.licence):
        yield mistake(
            file, f"the licence '{declared.licence.id}' ({declared.licence.url}) names no terms", ("licence",),
            expected="the licence that buyers get, for example CC-BY-4.0, and the address of its text",
        )  # fmt: skip
    yield from _unwritten(file, {k: v for k, v in read_yaml(file).items() if k != "licence"})


def _in_contract(contract: Contract) -> Iterator[DeclarationError]:
    status = str(contract.document.get("status") or "").lower()
    if status not in _PUBLISHED:
        yield _draft(contract.file, f"the contract's status is {status}", f"status: {_PUBLISHED[0]}")
    yield from _unwritten(contract.file, contract.document)


def _draft(file: Path, what: str, expected: str) -> DeclarationError:
    return mistake(file, what, ("status",), expected=f"{expected}, once a person has reviewed it")


def _unwritten(file: Path, document: dict[str, Any]) -> Iterator[DeclarationError]:
    for place, text in _texts(document, ()):
        if TO_BE_WRITTEN in text.lower():
            yield mistake(file, f"'{text[:80]}'", place, expected="what a buyer should read there")


def _texts(value: Any, place: _Place) -> Iterator[tuple[_Place, str]]:
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict):
        for key, below in value.items():
            yield from _texts(below, (*place, key))
    elif isinstance(value, list):
        for index, below in enumerate(value):
            yield from _texts(below, (*place, index))
