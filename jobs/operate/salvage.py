"""Keeps what was sold readable when a product's table is set aside: its released versions, from their manifests."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path

from jobs import lake
from jobs.lake.objects import sha256_of
from jobs.lake.relog import KnownFile, KnownVersion, rewrite_log
from jobs.registry.releases import released_manifests
from jobs.release.manifest import Manifest, ReleasedFile
from jobs.settings import settings


def salvage(product: str, damaged: Path | None) -> tuple[str, ...]:
    """Give a product's lost table its released versions again, under their numbers.

    Args:
        product: the product; its table's folder is not there.
        damaged: where the folder is now; None if it is gone. It is left as it is.

    Returns:
        Each release that cannot be read, and why.
    """
    manifests = [Manifest.model_validate(document) for document in released_manifests(product)]
    if not manifests or settings().is_remote:
        return ()
    # A table that was lost before, with another id, has no version in this one.
    table_id = manifests[-1].table.id
    lost = [f"{m.product}@{m.release}: of an earlier table" for m in manifests if m.table.id != table_id]
    kept = {m.table.delta_version: m for m in manifests if m.table.id == table_id}
    versions = [_known(kept[number]) for number in sorted(kept)]
    table = manifests[-1].table.name
    rewrite_log(table, table_id, versions, damaged)
    folder = lake.location(table)
    missing = {file.path for m in kept.values() for file in m.files if not _bring(file, damaged, folder)}
    for manifest in manifests:
        gone = [file.path for file in manifest.files if file.path in missing]
        if manifest.table.id == table_id and gone:
            name = f"{manifest.product}@{manifest.release}"
            lost.append(f"{name}: {len(gone)} files are gone or changed, first {gone[0]}")
    return tuple(lost)


def _known(manifest: Manifest) -> KnownVersion:
    table = manifest.table
    return KnownVersion(
        number=table.delta_version,
        at=datetime.fromisoformat(manifest.released_at),
        columns={column.name: column.type for column in table.columns},
        partitions=table.partitions,
        files=tuple(KnownFile(f.path, f.size, f.rows) for f in manifest.files),
    )


def _bring(file: ReleasedFile, damaged: Path | None, folder: Path) -> bool:
    """Link or copy a file that is exactly as it was released into the table's folder; whether it is there."""
    source, target = (damaged or folder) / file.path, folder / file.path
    if not source.is_file() or sha256_of(source) != file.sha256:
        return False
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            target.hardlink_to(source)
        except OSError:
            shutil.copy2(source, target)
    return True
