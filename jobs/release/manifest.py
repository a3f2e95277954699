"""The manifest of a release: everything its certificate vouches for, in one canonical JSON document."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal, Self

import rfc8785
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
    model_validator,
)

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Number = Annotated[str, StringConstraints(pattern=r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)$")]
TableName = Annotated[str, StringConstraints(pattern=r"^(silver|gold)\.[a-z][a-z0-9_]*$")]
Count = Annotated[int, Field(ge=0)]

MANIFEST_FILE = "manifest.json"
CREDENTIAL_FILE = "certificate.jwt"
CONTRACT_FILE = "contract.yaml"
EVIDENCE_FILE = "evidence.json"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True, validate_by_alias=True)


class Terms(_Part):
    """A licence, and the address of its text."""

    id: str
    url: str
    attribution: str | None = None


class SourceTerms(_Part):
    """One source of the product, and the terms that it was published on."""

    source: str
    title: str
    publisher: str
    licence: Terms
    redistribution: str
    basis: str


class AllTerms(BaseModel):
    """The terms of one release: the part of its manifest that a buyer agrees to."""

    model_config = ConfigDict(frozen=True)

    title: str
    cautions: tuple[str, ...] | None = None
    licence: Terms
    sources: tuple[SourceTerms, ...]


class ColumnType(_Part):
    """One column: its Delta type, and whether the contract allows it to be null."""

    name: str
    type: str
    nullable: bool


class TableVersion(_Part):
    """The Delta version that is released; `path` is relative to the exchange's home."""

    name: TableName
    path: str
    id: str
    delta_version: Count
    rows: Count
    bytes: Count
    columns: tuple[ColumnType, ...] = Field(validation_alias="schema", serialization_alias="schema")
    key: tuple[str, ...]
    partitions: tuple[str, ...] = ()


class ReleasedFile(_Part):
    """One data file; `path` is relative to the table's folder, spelt as on disk."""

    path: str
    sha256: Sha256
    size: Count
    rows: Count


class ContractCopy(_Part):
    """The contract: sha256 of the copy's bytes, and the digest of its terms however they are laid out."""

    path: str
    sha256: Sha256
    digest: Sha256
    version: str


class Expectations(_Part):
    """The result of the expectations on this version."""

    path: str
    result_sha256: Sha256
    suite_digest: str
    grade: str
    score: float | None
    dimensions: dict[str, Any]


class Input(_Part):
    """A table that the product was built from, directly or through another product."""

    table: TableName
    delta_version: Count


class Content(_Part):
    """Identity of the rows themselves, independent of files and engine.

    `fingerprint` is the sum over all rows of the row's 64-bit hash, twice with the columns in opposite orders.
    """

    algorithm: Literal["xxhash64-sum-2"]
    fingerprint: str
    sha256: Sha256


class SchemaChange(_Part):
    """One change of the table's schema."""

    kind: Literal["column_added", "column_removed", "type_changed", "key_changed", "may_be_absent", "always_present"]
    column: str | None = None
    before: str | None = None
    after: str | None = None

    @property
    def breaks(self) -> bool:
        """Whether it may break readers of the previous release."""
        return self.kind in ("column_removed", "type_changed", "key_changed", "may_be_absent")


class TermChange(_Part):
    """One change of the terms: of the title, a caution, the licence, or the rights to a source."""

    name: str
    before: str | None = None
    after: str | None = None


class Changes(_Part):
    """The difference from the previous release, by key.

    Attributes:
        against: the previous release; None for a first one.
        terms: changes of what was sold apart from the table; only if there are any.
        accepted: why a person let the release out although it breaks or shrinks the previous one; only then.
    """

    against: Number | None
    added: Count
    removed: Count
    changed: Count
    shape: tuple[SchemaChange, ...] = Field(default=(), validation_alias="schema", serialization_alias="schema")
    terms: tuple[TermChange, ...] = ()
    accepted: str | None = None

    @model_serializer(mode="wrap")
    def _without_absent(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        document: dict[str, Any] = write(self)
        # Earlier manifests are signed without these fields.
        return {name: value for name, value in document.items() if value or name not in ("terms", "accepted")}


class Manifest(_Part):
    """The manifest of one release.

    Its logical part is the same whichever engine built it from the same landed files: columns, key and number of rows
    in `table`, all of `content`, `contract`, `landed` and `diff`. The rest depends on the build: each engine names,
    splits, orders and encodes files in its own way (hence `files` and the bytes of `table`), a table's id is random,
    versions count commits, and run, instant and evidence are those of the run. The manifest's digest covers both parts;
    `content.sha256` covers rows and columns.

    The first format has no `cautions`; its manifests keep their format, and with it their bytes and signatures.
    """

    format: Literal["exchange-release/1", "exchange-release/2"] = "exchange-release/2"
    product: str
    release: Number
    title: str
    cautions: tuple[str, ...] | None = None
    released_at: str
    run_id: str
    licence: Terms
    sources: tuple[SourceTerms, ...]
    table: TableVersion
    files: tuple[ReleasedFile, ...]
    content: Content
    contract: ContractCopy
    expectations: Expectations
    inputs: tuple[Input, ...]
    landed: tuple[Sha256, ...]
    diff: Changes

    @model_validator(mode="after")
    def _cautions_by_format(self) -> Self:
        if (self.cautions is None) != (self.format == "exchange-release/1"):
            raise ValueError("cautions belong to the format exchange-release/2, which always has them")
        return self

    @property
    def terms(self) -> AllTerms:
        """What a buyer agrees to."""
        return AllTerms(title=self.title, cautions=self.cautions, licence=self.licence, sources=self.sources)

    def document(self) -> dict[str, Any]:
        """The manifest as JSON values."""
        # A manifest of the first format is signed without the field.
        return self.model_dump(mode="json", by_alias=True, exclude={"cautions"} if self.cautions is None else None)

    def statement(self) -> dict[str, Any]:
        """What the release's certificate states: enough to detect any change of anything that the manifest lists."""
        return {
            "id": f"urn:data-exchange-lake:release:{self.product}:{self.release}",
            "product": self.product,
            "release": self.release,
            "manifestSha256": digest(self.encode()),
            "contentSha256": self.content.sha256,
            "deltaVersion": self.table.delta_version,
            "rows": self.table.rows,
            "bytes": self.table.bytes,
            "grade": self.expectations.grade,
            "licence": self.licence.id,
        }

    def encode(self) -> bytes:
        """The manifest as canonical JSON (RFC 8785): equal manifests give equal bytes."""
        return self._encoded

    @cached_property
    def _encoded(self) -> bytes:
        return canonical(self.document())

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Manifest:
        """A copy, without the cached encoding, which may no longer fit."""
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("_encoded", None)
        return copied


def canonical(document: Any) -> bytes:
    """JSON values in the canonical form of RFC 8785.

    Raises:
        ValueError: a number has no exact form in JSON.
    """
    return rfc8785.dumps(document)


def digest(data: bytes) -> str:
    """sha256 as lower-case hex."""
    return hashlib.sha256(data).hexdigest()


def content_digest(columns: dict[str, str], rows: int, fingerprint: str) -> str:
    """Digest of a table's content, independent of its files: column names and types, row count, fingerprint."""
    shape = sorted([name, kind] for name, kind in columns.items())
    return digest(canonical({"columns": shape, "rows": rows, "fingerprint": fingerprint}))


def description(title: str, cautions: Sequence[str]) -> str:
    """A product's description for buyers: its title, then its cautions, as sentences."""
    return " ".join(text if text.endswith((".", "!", "?")) else f"{text}." for text in (title, *cautions))


def parse_number(number: str) -> tuple[int, int, int] | None:
    """``1.2.0`` as three integers; None if it is not a release's number."""
    parts = number.split(".")
    if len(parts) != 3 or not all(p.isascii() and p.isdigit() and str(int(p)) == p for p in parts):
        return None
    major, minor, patch = map(int, parts)
    return major, minor, patch
