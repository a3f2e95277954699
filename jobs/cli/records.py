"""Commands that list sources, products and runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.cli.options import AsJson, Limit
from jobs.cli.show import listing, note

if TYPE_CHECKING:
    from jobs.check import Block
    from jobs.declared.catalog import Product, Source
    from jobs.errors import DeclarationError
    from jobs.registry.landings import LandingSummary
    from jobs.registry.models import Pointer, Release

BLOCKED = 1

_COUNTS = (
    "rows_in", "rows_out", "rows_quarantined", "rows_duplicate", "rows_dropped", "rows_unchanged", "rows_superseded",
)  # fmt: skip


def sources(as_json: AsJson = False) -> None:
    """List the declared sources, what each has landed, and the grade of its checked version."""
    from jobs.declared.catalog import load_sources
    from jobs.lake.pointers import pointers
    from jobs.registry.checks import grades
    from jobs.registry.landings import landed_by_source

    catalog = load_sources()
    checked = {p.table_name: p for p in pointers()}
    landed, graded = landed_by_source(), grades()
    rows = [
        _source(s, checked.get(s.table), landed.get(s.name), graded.get(s.table))
        for s in catalog.sources.values()
    ]
    rows += [_broken(m, rows[0] if rows else None, "source") for m in catalog.mistakes] if as_json else []
    listing(
        rows,
        (
            "sector",
            "source",
            "mode",
            "files_landed",
            "last_landed_at",
            "rows",
            "grade",
            "licence",
            "redistribution",
        ),
        as_json=as_json,
        empty=_none_declared("source", "exchange source new <sector>/<name> --from <file>", catalog.mistakes),
    )
    if not as_json:
        _note_mistakes(catalog.mistakes)


def products(as_json: AsJson = False) -> None:
    """List the products, their newest releases and the questions they answer; exit code 1 if one is blocked."""
    from jobs.check import blocked
    from jobs.declared.catalog import load_products
    from jobs.registry.releases import newest_published

    catalog = load_products()
    released = newest_published()
    blocks = blocked({table for p in catalog.products.values() for table in (p.table, *p.inputs)})
    rows = [_product(p, released.get(p.name), blocks) for p in catalog.products.values()]
    rows += [_broken(m, rows[0] if rows else None, "product") for m in catalog.mistakes] if as_json else []
    listing(
        rows,
        ("product", "release", "rows", "grade", "licence", "released_at", "question"),
        as_json=as_json,
        empty=_none_declared("product", "exchange product new <name> --query <file.sql>", catalog.mistakes),
    )
    if not as_json:
        _note_mistakes(catalog.mistakes)
        for table, block in sorted(blocks.items()):
            note(f"{table} is {block}. Next: exchange quality {table}")
    if blocks:
        raise typer.Exit(BLOCKED)


def runs(
    name: Annotated[str | None, typer.Option("--name", help="Only those of this source or product.")] = None,
    step: Annotated[str | None, typer.Option("--step", help="Only this step, for example silver.")] = None,
    status: Annotated[str | None, typer.Option("--status", help="running, succeeded, unchanged or failed.")] = None,
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """List the latest runs of steps, newest first, with the rows each read and what became of them."""
    from jobs.registry.runs import latest_runs

    own = name.rsplit(".", 1)[-1] if name else None
    rows = [
        {
            "id": r.id, "run_id": r.run_id, "step": r.step, "kind": r.kind, "name": r.name, "table": r.table_name,
            "status": r.status, "logical_date": r.logical_date, "started_at": r.started_at, "ended_at": r.ended_at,
            "seconds": (r.ended_at - r.started_at).total_seconds() if r.ended_at else None,
            **{c: getattr(r, c) for c in _COUNTS},
            "bytes_in": r.bytes_in, "version": r.output_version, "message": r.message,
        }
        for r in latest_runs(name=own, step=step, status=status, limit=limit)
    ]  # fmt: skip
    shown = [c for c in _COUNTS if any(r[c] for r in rows)]
    titles = {c: c.removeprefix("rows_") for c in shown}
    listing(
        [r | {titles[c]: r[c] for c in shown} for r in rows] if not as_json else rows,
        ("started_at", "step", "name", "status", "seconds", *titles.values(), "version", "message"),
        as_json=as_json,
        empty="no step has run yet" if not (name or step or status) else "no such step has run yet",
    )


def _source(
    source: Source, checked: Pointer | None, landed: LandingSummary | None, grade: str | None
) -> dict[str, Any]:
    declared = source.declared
    return {
        "source": source.name,
        "sector": source.sector,
        "title": declared.title,
        "publisher": declared.publisher.name,
        "licence": declared.licence.id,
        "redistribution": declared.rights.redistribution,
        "connector": declared.connector.type,
        "cadence": declared.cadence,
        "mode": declared.silver.mode,
        "table": source.table,
        "files_landed": landed.files if landed else 0,
        "last_landed_at": landed.last_at if landed else None,
        "checked_version": checked.delta_version if checked else None,
        "rows": _rows(source.table, checked),
        "grade": grade,
        "declared_in": str(source.file),
        "mistake": None,
    }


def _product(product: Product, release: Release | None, blocks: dict[str, Block]) -> dict[str, Any]:
    declared = product.declared
    blocking = {table: str(blocks[table]) for table in (product.table, *product.inputs) if table in blocks}
    return {
        "product": product.name,
        "title": declared.title,
        "question": declared.question,
        "buyers": list(declared.buyers),
        "cautions": list(declared.cautions),
        "inputs": list(product.inputs),
        "licence": release.licence if release else declared.licence.id,
        "release": release.number if release else None,
        "released_at": release.released_at if release else None,
        "rows": release.rows if release else None,
        "bytes": release.bytes if release else None,
        "grade": release.grade if release else None,
        "blocked": blocking or None,
        "declared_in": str(product.file),
        "mistake": None,
    }


def _broken(mistake: DeclarationError, like: dict[str, Any] | None, kind: str) -> dict[str, Any]:
    """Return a broken declaration with the same fields as a valid one."""
    fields = dict.fromkeys(like or {})
    return fields | {kind: mistake.file.parent.name, "declared_in": str(mistake.file), "mistake": str(mistake)}


def _note_mistakes(mistakes: tuple[DeclarationError, ...]) -> None:
    for mistake in mistakes:
        note(f"broken declaration: {mistake}")


def _none_declared(kind: str, next_step: str, mistakes: tuple[DeclarationError, ...]) -> str:
    from jobs.settings import settings

    if mistakes:
        return f"no {kind} has a valid declaration"
    return f"no {kind} is declared under {settings().catalogue / 'dags'} yet. Next: {next_step}"


def _rows(table: str, checked: Pointer | None) -> int | None:
    from jobs import lake
    from jobs.errors import ExchangeError

    if checked is None:
        return None
    try:
        return lake.rows(table, checked.delta_version)
    except ExchangeError:
        # The table's folder is missing: a list does not fail for that; `rebuild` reports it.
        return None
