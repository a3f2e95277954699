"""Reads what a client says it supports, and chooses the response format."""

from __future__ import annotations

from dataclasses import dataclass, field

from jobs.share.errors import invalid, unsupported

HEADER = "delta-sharing-capabilities"
FILE_ID_HEADER = "fileidhash"

PARQUET = "parquet"
DELTA = "delta"


@dataclass(frozen=True)
class Capabilities:
    """The parsed header ``delta-sharing-capabilities``."""

    formats: frozenset[str] = frozenset({PARQUET})
    reader_features: frozenset[str] = field(default_factory=frozenset)
    end_stream_action: bool = False
    file_id_hash: str | None = None

    def choose(self, min_reader_version: int, table_features: frozenset[str]) -> str:
        """Choose the response format.

        A client that accepts both gets delta: the official client then fetches each file with one request instead of
        about twelve, and loads it faster.

        Raises:
            ShareError: the client accepts no format that can carry this table.
        """
        lacking = {feature for feature in table_features if feature.lower() not in self.reader_features}
        needs_delta = min_reader_version > 1
        if DELTA in self.formats and not lacking:
            return DELTA
        if PARQUET in self.formats and not needs_delta:
            return PARQUET
        needed = ",".join(sorted(table_features)) or "none"
        raise unsupported(
            "the client does not support this table: it needs "
            f"responseformat={DELTA if needs_delta else 'parquet or delta'} and the reader features {needed}"
        )

    def echo(self, chosen: str, *, with_end: bool) -> str:
        """Return the value of the response header."""
        ending = ";includeendstreamaction=true" if with_end else ""
        return f"responseformat={chosen}{ending}"


def read(header: str | None, file_id_hash: str | None = None) -> Capabilities:
    """Read the capability headers; unknown capabilities are ignored, as the protocol requires.

    Raises:
        ShareError: none of the response formats is known, or ``fileidhash`` is unknown.
    """
    capabilities = dict(_pairs(header or ""))
    formats = frozenset(capabilities.get("responseformat", {PARQUET})) & {PARQUET, DELTA}
    if not formats:
        raise invalid(f"{HEADER}: responseformat must name parquet, delta or both")
    hash_of = file_id_hash.strip().lower() if file_id_hash is not None else None
    if hash_of not in (None, PARQUET, DELTA):
        raise invalid(f"{FILE_ID_HEADER} must be parquet or delta")
    return Capabilities(
        formats=formats,
        reader_features=frozenset(capabilities.get("readerfeatures", ())),
        end_stream_action="true" in capabilities.get("includeendstreamaction", ()),
        file_id_hash=hash_of,
    )


def _pairs(header: str) -> list[tuple[str, set[str]]]:
    pairs = []
    for capability in header.split(";"):
        key, _, values = capability.partition("=")
        pairs.append((key.strip().lower(), {value.strip().lower() for value in values.split(",") if value.strip()}))
    return pairs
