"""Release: a checked gold version gets a number, a manifest and a certificate, and never changes again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from jobs import lake
from jobs.check import blocked, read_evidence
from jobs.declared.catalog import Product
from jobs.declared.contract import Contract, load_contract
from jobs.declared.drafts import unfinished
from jobs.errors import (
    AcceptanceNeeded,
    ExchangeError,
    ExpectationsFailed,
    Locked,
    NotFound,
    Tampered,
    Unfinished,
)
from jobs.lake import guard
from jobs.lake.pointers import checked
from jobs.lake.pointers import pointer as pointer_of
from jobs.registry import reading
from jobs.registry.models import Check, Pointer, Release
from jobs.registry.releases import (
    newest_published_in,
    newest_release,
    newest_terms,
    numbers_in,
    record_release,
    release_numbered_in,
)
from jobs.registry.runs import Counts, StepOutcome, last_released_version
from jobs.release import archive, credential
from jobs.release.describe import Candidate, describe
from jobs.release.difference import (
    Difference,
    Fingerprint,
    RowDifference,
    RowKind,
    Side,
    difference,
    fingerprint,
    rows_of,
)
from jobs.release.lineage import sources_of
from jobs.release.manifest import AllTerms, Changes, Manifest, canonical, parse_number
from jobs.release.snapshot import Snapshot, snapshot
from jobs.release.terms import changes_between, changes_since, have_changed, source_terms
from jobs.release.unrecorded import record_unrecorded, release_row
from jobs.settings import settings

# Unfinished places named in one message.
_SHOWN = 3


@dataclass(frozen=True)
class ReleaseResult:
    """The newest release after a call of `release`; `is_new` says whether this call created it."""

    product: str
    number: str
    delta_version: int
    rows: int
    grade: str
    diff: Changes
    is_new: bool


def run(product: Product, _logical_date: datetime, run_id: str, *, accept: str | None = None) -> StepOutcome:
    """The step, as `jobs.flow` calls it: `release` as of now, once the product was built and is finished.

    Args:
        accept: why a person accepts a release that breaks or shrinks the one before.
    """
    if pointer_of(product.table) is None and not lake.exists(product.table):
        # Its build waits for inputs; they may have arrived since, which starts the next run.
        return StepOutcome("unchanged", message="nothing to release yet: the product was not built")
    try:
        released = release(product, run_id=run_id, now=datetime.now(UTC), accept=accept)
    except Unfinished as unfinished_product:
        return StepOutcome("unchanged", message=str(unfinished_product))
    return StepOutcome(
        status="succeeded" if released.is_new else "unchanged",
        counts=Counts(rows_out=released.rows),
        output_version=checked(product.table).delta_version,
        message=_message(product, released),
        release=released.number,
    )


def _message(product: Product, released: ReleaseResult) -> str:
    message = f"{released.number}, grade {released.grade}"
    if released.is_new:
        return message
    inputs = "; ".join(f"{table} is {block}" for table, block in sorted(blocked(product.inputs).items()))
    return f"{message}, as before" + (f"; {inputs}" if inputs else "")


def release(product: Product, *, run_id: str, now: datetime, accept: str | None = None) -> ReleaseResult:
    """Release the product's checked version, unless nothing changed since the newest release.

    If it is killed at any instant, calling it again ends with the same single release: one whose folder is stored is
    final, and is recorded first, whatever the product's rows are by now.

    Args:
        product: the declared product.
        run_id: the current run, recorded in the manifest.
        now: the instant of release, recorded in the manifest and the certificate.
        accept: why a person accepts a release that breaks or shrinks the one before, recorded in the manifest.

    Raises:
        NotFound: the product has no checked version, or its inputs were not recorded.
        ExpectationsFailed: that version or a newer one did not pass its check, or the contract has changed since.
        Unfinished: the product's declarations are drafts.
        AcceptanceNeeded: the version breaks the release before, or lacks more of its rows than declared.
        ExchangeError: the rights to a source do not allow a release.
        Locked: another process is releasing this product.
    """
    with guard.locked(f"release.{product.name}"):
        completed = {row.number for row in record_unrecorded(product.name)}
        _require_unblocked(product)
        pointer, check, contract = _checked(product)
        _require_finished(product, contract)
        newest = newest_release(product.name)
        side = _side(snapshot(product.table, pointer.delta_version), contract)
        changes = _compare(newest, side)
        previous = _manifest_of(newest) if newest else None
        if previous:
            sources = source_terms(sources_of(pointer.inputs or {}))
            changes = replace(changes, terms=changes_since(previous.terms, product, sources))
        if newest and changes.is_empty:
            return _result(newest, is_new=newest.number in completed)
        doubts = _doubts(product, newest, previous, changes) if newest and previous else ()
        if doubts and not accept:
            raise _acceptance_needed(product, pointer, doubts)
        candidate = Candidate(product, pointer, check, contract, side)
        number = next_number((newest.major, newest.minor, newest.patch) if newest else None, changes)
        if newest:
            # Buyers ask for the release of an instant, so a clock that was set back must not reorder releases.
            now = max(now, newest.released_at + timedelta(milliseconds=1))
        manifest = describe(candidate, changes, number, previous, run_id, now, accept if doubts else None)
        return _publish(candidate, manifest)


def is_released(product: Product) -> bool:
    """Whether the newest release has the product's checked version, and the terms that are declared now."""
    sold = newest_terms(product.name)
    checked_version = pointer_of(product.table)
    if sold is None or checked_version is None:
        return False
    # A version that `release` found equal to the last release counts as released.
    is_same = last_released_version(product.name) == checked_version.delta_version
    return is_same and not have_changed(AllTerms.model_validate(sold), product)


def next_number(before: tuple[int, int, int] | None, changes: Difference) -> tuple[int, int, int]:
    """The semantic version that follows from a difference.

    A breaking change of schema (column removed or retyped, key changed, required column made optional) is major, new
    rows or columns are minor; rows only corrected or removed, and terms only, are a patch. The first release is 1.0.0.
    """
    if before is None:
        return 1, 0, 0
    major, minor, patch = before
    if any(change.breaks for change in changes.schema):
        return major + 1, 0, 0
    if changes.added or any(change.kind == "column_added" for change in changes.schema):
        return major, minor + 1, 0
    return major, minor, patch + 1


def find(product: str, number: str | None = None) -> Release:
    """A release by its number, for example ``1.2.0``; the newest published one if None.

    Raises:
        NotFound: there is no such release.
    """
    with reading() as session:
        if number is None:
            row = newest_published_in(session, product)
        else:
            parsed = parse_number(number)
            row = release_numbered_in(session, product, parsed) if parsed else None
        if row:
            return row
        released = [".".join(map(str, parts)) for parts in numbers_in(session, product)]
    raise NotFound(
        f"no release {number} of '{product}'" if number else f"no release of '{product}'",
        expected="one of: " + (", ".join(released) or "none (nothing has been released yet)"),
        next_step="`exchange releases` lists them",
    )


def compare(product: str, before: str, after: str) -> Difference:
    """The difference between any two releases of a product, by key, with exact counts.

    Raises:
        NotFound: there is no such release.
    """
    old, new = find(product, before), find(product, after)
    sold, later = _manifest_of(old), _manifest_of(new)
    tables = difference(_released_side(old), _released_side(new), Fingerprint.parse(sold.content.fingerprint))
    return replace(tables, terms=changes_between(sold.terms, later.terms))


def rows_of_difference(product: str, before: str, after: str, kind: RowKind, limit: int = 20) -> list[RowDifference]:
    """The first rows, in key order, that were added, removed or changed between any two releases.

    Raises:
        NotFound: there is no such release.
        ExchangeError: the key changed between them.
    """
    return rows_of(_released_side(find(product, before)), _released_side(find(product, after)), kind, limit)


def _checked(product: Product) -> tuple[Pointer, Check, Contract]:
    pointer = checked(product.table)
    check, contract = pointer.check, load_contract(product.table)
    where = f"{product.table} version {pointer.delta_version}"
    next_step = f"exchange check {product.name}"
    if check is None or not check.passed:
        raise ExpectationsFailed("this version has not passed its expectations", where=where, next_step=next_step)
    if check.contract_digest != contract.digest:
        raise ExpectationsFailed(
            "the contract was changed since this version was checked",
            where=str(contract.file),
            expected=f"the contract with the digest {check.contract_digest[:12]}…",
            next_step=next_step,
        )
    return pointer, check, contract


def _require_unblocked(product: Product) -> None:
    block = blocked([product.table]).get(product.table)
    if block:
        raise ExpectationsFailed(
            str(block), where=product.table,
            next_step=f"see `exchange quality {product.table}`, then correct the sources or the contract and run again",
        )  # fmt: skip


def _require_finished(product: Product, contract: Contract) -> None:
    missing = unfinished(product, contract)
    if missing:
        shown = "; ".join(str(m) for m in missing[:_SHOWN])
        more = f"; and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise Unfinished(
            f"not released, its declarations are unfinished: {shown}{more}", where=product.name,
            next_step=f"complete them, then: exchange check {product.name}; exchange release {product.name}",
        )  # fmt: skip


def _doubts(product: Product, newest: Release, previous: Manifest, changes: Difference) -> tuple[str, ...]:
    """Why buyers of the previous release could be surprised by this one; a person has to accept it."""
    doubts = []
    if newest.status == "recalled" and not changes.has_table_changes:
        doubts.append(f"{newest.number} was recalled, and only the terms have changed since")
    broken = [c for c in changes.schema if c.breaks]
    if broken:
        named = ", ".join(f"{c.kind.replace('_', ' ')}{f' ({c.column})' if c.column else ''}" for c in broken)
        doubts.append(f"breaking changes: {named}")
    rows, limit = previous.table.rows, product.declared.largest_loss
    if changes.removed > limit * rows:
        doubts.append(
            f"{changes.removed:,} of the {rows:,} rows are gone ({changes.removed / rows:.2%}, at most {limit:.2%})"
        )
    return tuple(doubts)


def _acceptance_needed(product: Product, pointer: Pointer, doubts: tuple[str, ...]) -> AcceptanceNeeded:
    return AcceptanceNeeded(
        f"version {pointer.delta_version} is not released, compared with the newest release: {'; '.join(doubts)}",
        where=product.table,
        expected=f"a version that breaks nothing and keeps the rows (largest_loss in {product.file})",
        next_step=f'correct the sources or the query, or: exchange release {product.name} --accept --reason "…"',
    )


def _side(version: Snapshot, contract: Contract) -> Side:
    return Side(version, contract.key, frozenset(c.name for c in contract.columns if c.required))


def _released_side(row: Release) -> Side:
    table = _manifest_of(row).table
    version = snapshot(table.name, table.delta_version)
    name = f"{row.product}@{row.number}"
    if version.id != table.id:
        raise Tampered(
            "the table was rebuilt since this release, and the release's rows are gone",
            where=name,
            expected=f"the Delta table {table.id}, found {version.id}",
            next_step=f"restore the table's folder from its backup, or recall it: exchange recall {name}",
        )
    return Side(version, table.key, frozenset(c.name for c in table.columns if not c.nullable))


def _is_lost(row: Release) -> bool:
    """Whether a release was recalled and its rows are gone, so that there is nothing to compare with."""
    if row.status != "recalled":
        return False
    try:
        files = _released_side(row).version.files
    except ExchangeError:
        return True
    folder = lake.location(_manifest_of(row).table.name)
    return not settings().is_remote and not all((folder / path).is_file() for path in files)


def _require_files(row: Release, before: Snapshot, after: Snapshot) -> None:
    """Refuse a comparison that would read files which are gone: those of the release that the new version lacks."""
    folder = lake.location(before.table)
    replaced = [] if settings().is_remote else [path for path in before.files if path not in after.files]
    gone = [path for path in replaced if not (folder / path).is_file()]
    if gone:
        name = f"{row.product}@{row.number}"
        raise Tampered(
            f"{len(gone)} files of this release are gone, first {gone[0]}",
            where=name,
            expected=f"its {len(before.files)} files under {folder}",
            next_step=f"restore the table's folder from its backup, or recall it: exchange recall {name}",
        )


def _compare(newest: Release | None, side: Side) -> Difference:
    if newest is None or _is_lost(newest):
        return Difference(side.version.rows, 0, 0, (), fingerprint(side.version))
    if newest.delta_version == side.version.version:
        # Only the terms can differ.
        return Difference(0, 0, 0, (), Fingerprint.parse(_manifest_of(newest).content.fingerprint))
    before = _released_side(newest)
    _require_files(newest, before.version, side.version)
    recorded = Fingerprint.parse(_manifest_of(newest).content.fingerprint)
    changes = difference(before, side, recorded)
    if before.version.rows + changes.added - changes.removed != side.version.rows:
        raise ExchangeError(
            f"{before.version.rows} rows, {changes.added} added and {changes.removed} removed do not make the "
            f"{side.version.rows} rows of the new version",
            where=side.version.table,
            expected=f"unique keys ({', '.join(side.key)})",
            next_step="check the key in the contract",
        )
    return changes


def _publish(candidate: Candidate, manifest: Manifest) -> ReleaseResult:
    """Store the folder, which makes the release final, then the registry's row, which publishes it."""
    manifest, token = archive.keep(
        manifest,
        contract=candidate.contract_copy,
        evidence=canonical(read_evidence(candidate.check.result_sha256)),
        sign=_sign,
    )
    row = release_row(candidate.check, manifest, token)
    if not record_release(row):
        raise Locked(
            f"another process has just released {manifest.product}@{manifest.release}",
            next_step="run the release again",
        )
    return _result(row, is_new=True)


def _sign(manifest: Manifest) -> str:
    at = datetime.fromisoformat(manifest.released_at)
    return credential.issue(credential.RELEASE, manifest.statement(), valid_from=at)


def _result(row: Release, *, is_new: bool) -> ReleaseResult:
    diff = _manifest_of(row).diff
    return ReleaseResult(row.product, row.number, row.delta_version, row.rows, row.grade, diff, is_new)


def _manifest_of(row: Release) -> Manifest:
    return Manifest.model_validate(row.manifest)
