"""Composes the manifest of a release, a complete description of a checked gold version."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from jobs import lake
from jobs.declared.catalog import Product
from jobs.declared.contract import Contract
from jobs.errors import NotFound, Tampered
from jobs.lake.objects import sha256_of
from jobs.registry.models import Check, Pointer
from jobs.release.credential import instant
from jobs.release.difference import Difference, Side
from jobs.release.lineage import Lineage, lineage
from jobs.release.manifest import (
    CONTRACT_FILE,
    EVIDENCE_FILE,
    Changes,
    ColumnType,
    Content,
    ContractCopy,
    Expectations,
    Input,
    Manifest,
    ReleasedFile,
    TableVersion,
    content_digest,
    digest,
)
from jobs.release.snapshot import Snapshot
from jobs.release.terms import licence_of, source_terms


@dataclass(frozen=True)
class Candidate:
    """A checked version that may become a release, with everything its release depends on."""

    product: Product
    pointer: Pointer
    check: Check
    contract: Contract
    side: Side

    @property
    def contract_copy(self) -> bytes:
        """The contract as the release stores it: complete, so that it makes sense without the column dictionary."""
        return self.contract.text.encode()


def describe(
    candidate: Candidate,
    difference: Difference,
    number: tuple[int, int, int],
    previous: Manifest | None,
    run_id: str,
    now: datetime,
    accepted: str | None = None,
) -> Manifest:
    """Compose a release's manifest: its table, files, contract, evidence, origin and terms.

    Args:
        candidate: the checked version.
        difference: the difference from the previous release; for a first release, all rows are added.
        number: the release's number.
        previous: the previous release's manifest, which provides the digests of unchanged files.
        run_id: the current run.
        now: the instant of release.
        accepted: why a person accepted a difference that would have held the release back.

    Raises:
        NotFound: the origin of the version was not recorded.
        ExchangeError: the rights to a source do not allow a release.
        Tampered: a data file does not match the table's log.
    """
    product, version = candidate.product, candidate.side.version
    upstream = _upstream(candidate)
    declared = product.declared
    return Manifest(
        product=product.name,
        release=".".join(map(str, number)),
        title=declared.title,
        cautions=declared.cautions,
        released_at=instant(now),
        run_id=run_id,
        licence=licence_of(declared.licence),
        sources=source_terms(upstream.sources),
        table=_table(candidate),
        files=_files(version, previous),
        content=Content(
            algorithm="xxhash64-sum-2",
            fingerprint=str(difference.fingerprint),
            sha256=content_digest(version.business_columns, version.rows, str(difference.fingerprint)),
        ),
        contract=ContractCopy(
            path=CONTRACT_FILE,
            sha256=digest(candidate.contract_copy),
            digest=candidate.contract.digest,
            version=candidate.contract.version,
        ),
        expectations=_expectations(candidate.check),
        inputs=_inputs(upstream),
        landed=upstream.landed,
        diff=_changes(difference, previous, accepted),
    )


def _upstream(candidate: Candidate) -> Lineage:
    upstream = lineage(candidate.pointer.inputs or {})
    if not upstream.landed:
        raise NotFound(
            "the landed files that this version comes from were not recorded",
            where=f"{candidate.product.table} version {candidate.pointer.delta_version}",
            expected="inputs that lead back to landed files",
            next_step=f"exchange gold {candidate.product.name}, then check it",
        )
    return upstream


def _table(candidate: Candidate) -> TableVersion:
    side, version = candidate.side, candidate.side.version
    return TableVersion(
        name=version.table,
        path=lake.relative(version.table),
        id=version.id,
        delta_version=version.version,
        rows=version.rows,
        bytes=version.bytes,
        columns=tuple(
            ColumnType(name=name, type=kind, nullable=name not in side.required)
            for name, kind in version.columns.items()
        ),
        key=side.key,
        partitions=version.partitions,
    )


def _files(version: Snapshot, previous: Manifest | None) -> tuple[ReleasedFile, ...]:
    # A data file never changes once it is in the log, so the previous release's digests are still valid.
    earlier = {(f.path, f.size): f for f in previous.files} if previous else {}
    folder = lake.location(version.table)
    fresh = [f for f in version.files.values() if (f.path, f.size) not in earlier]
    with ThreadPoolExecutor(max_workers=4) as pool:
        digested = dict(zip((f.path for f in fresh), pool.map(lambda f: _digested(folder, f), fresh), strict=True))
    return tuple(digested.get(path) or earlier[path, version.files[path].size] for path in sorted(version.files))


def _digested(folder: Path, file: lake.DataFile) -> ReleasedFile:
    place = folder / file.path
    if not place.is_file() or place.stat().st_size != file.size:
        raise Tampered(
            "the file does not match the table's log",
            where=str(place),
            expected=f"{file.size} bytes",
            next_step=f"exchange rebuild {folder.parent.name}.{folder.name}",
        )
    return ReleasedFile(path=file.path, sha256=sha256_of(place), size=file.size, rows=file.rows)


def _expectations(check: Check) -> Expectations:
    return Expectations(
        path=EVIDENCE_FILE,
        result_sha256=check.result_sha256,
        suite_digest=check.suite_digest,
        grade=check.grade,
        score=check.score,
        dimensions=check.dimensions,
    )


def _inputs(upstream: Lineage) -> tuple[Input, ...]:
    return tuple(Input(table=table, delta_version=version) for table, version in upstream.inputs)


def _changes(difference: Difference, previous: Manifest | None, accepted: str | None) -> Changes:
    return Changes(
        against=previous.release if previous else None,
        added=difference.added,
        removed=difference.removed,
        changed=difference.changed,
        shape=difference.schema,
        terms=difference.terms,
        accepted=accepted,
    )
