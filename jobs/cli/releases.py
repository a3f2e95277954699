"""Commands that list, compare and recall releases."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.cli.names import own_name
from jobs.cli.options import AsJson, ProductName
from jobs.cli.show import document, line, listing, table
from jobs.errors import ExchangeError, NotFound

if TYPE_CHECKING:
    from jobs.registry.models import Recall, Release
    from jobs.release.difference import RowDifference

_EXAMPLES = 5


def releases(
    product: Annotated[str | None, typer.Argument(metavar="[PRODUCT]", help="Only those of this product.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the releases, newest first, with what each changed."""
    from jobs.declared.catalog import load_products
    from jobs.registry.releases import last_recalls, releases_with_changes

    name = own_name(product) if product else None
    recalls = last_recalls()
    rows = [_release(release, changes, recalls.get(release.id)) for release, changes in releases_with_changes(name)]
    if name and not rows:
        load_products().product(name)
    listing(
        rows,
        (
            "product",
            "release",
            "status",
            "rows",
            "grade",
            "added",
            "removed",
            "changed",
            "schema_changes",
            "licence",
            "released_at",
        ),
        as_json=as_json,
        empty=f"{name or 'no product'} has {'no' if name else 'a'} release yet. Next: exchange run",
    )


def diff(
    product: ProductName,
    before: Annotated[
        str | None, typer.Argument(metavar="[FROM]", help="A release; by default the one before TO.")
    ] = None,
    after: Annotated[str | None, typer.Argument(metavar="[TO]", help="A release; by default the newest.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="Example rows of each kind.")] = _EXAMPLES,
    as_json: AsJson = False,
) -> None:
    """Show how two releases of a product differ, by key: counts, columns and example rows."""
    from jobs.release.difference import ROW_KINDS
    from jobs.release.step import compare, rows_of_difference

    name = own_name(product)
    before, after = _pair(name, before, after)
    difference = compare(name, before, after)
    counts = {"added": difference.added, "removed": difference.removed, "changed": difference.changed}
    keys_differ = any(c.kind == "key_changed" for c in difference.schema)
    rows = [
        row
        for kind in ROW_KINDS
        if counts[kind] and limit and not keys_differ
        for row in rows_of_difference(name, before, after, kind, limit)
    ]
    shape = [c.model_dump() for c in difference.schema]
    if as_json:
        terms = [c.model_dump() for c in difference.terms]
        summary = {"product": name, "from": before, "to": after, **counts, "schema": shape, "terms": terms}
        document(summary | {"rows": [asdict(r) for r in rows]})
        return
    counted = ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
    line(f"{name} {before} → {after}: {counted}")
    for change in difference.schema:
        detail = f": {change.before} → {change.after}" if change.before and change.after else ""
        line(f"  {change.kind.replace('_', ' ')} {change.column or ''}{detail}")
    for term in difference.terms:
        line(f"  {term.name}: {term.before or 'none'} → {term.after or 'none'}")
    if rows:
        table(("", "key", "column", "before", "after"), [r for row in rows for r in _cells(row)])


def recall(
    which: Annotated[str, typer.Argument(metavar="PRODUCT@RELEASE", help="The release, for example rates@1.2.0.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; kept with the release.")],
    lift: Annotated[bool, typer.Option("--lift", help="End a recall: buyers may read the release again.")] = False,
    by: Annotated[str | None, typer.Option("--by", help="Who decided it; your user name by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Recall a release: it serves no one from the next request on."""
    from jobs.cli.options import user_name
    from jobs.release.recall import recall as recall_release
    from jobs.release.step import find

    product, _, number = which.partition("@")
    if not number:
        raise ExchangeError(
            f"'{which}' names no release", expected="a product and a release, for example rates@1.2.0",
            next_step=f"exchange releases {own_name(product)} lists them",
        )  # fmt: skip
    release = find(own_name(product), number)
    event = recall_release(release, reason=reason, by=by or user_name(), lift=lift)
    if as_json:
        document({"product": release.product, "release": release.number, **asdict(event)})
        return
    what = "may be read again" if lift else "is recalled: it serves no one now"
    line(f"{release.product}@{release.number} {what} ({event.by}, {event.at:%Y-%m-%d %H:%M:%S} UTC: {event.reason})")


def _release(release: Release, changes: dict[str, Any], event: Recall | None) -> dict[str, Any]:
    recall = {"by": event.by, "at": event.at, "reason": event.reason} if event and event.recalled else None
    shape = changes.get("schema") or []
    return {
        "product": release.product,
        "release": release.number,
        "status": release.status,
        "recall": recall,
        "rows": release.rows,
        "bytes": release.bytes,
        "grade": release.grade,
        "licence": release.licence,
        "released_at": release.released_at,
        "against": changes.get("against"),
        "added": changes.get("added"),
        "removed": changes.get("removed"),
        "changed": changes.get("changed"),
        "schema_changes": len(shape),
        "schema": shape,
        "delta_version": release.delta_version,
        "manifest_sha256": release.manifest_sha256,
    }


def _pair(product: str, before: str | None, after: str | None) -> tuple[str, str]:
    from jobs.registry.releases import releases_of
    from jobs.release.step import find

    last = find(product, after)
    if before is not None:
        return find(product, before).number, last.number
    place = (last.major, last.minor, last.patch)
    older = [r for r in releases_of(product) if (r.major, r.minor, r.patch) < place]
    if not older:
        raise NotFound(
            f"there is no release of '{product}' before {last.number}",
            expected="two releases to compare",
            next_step=f"exchange releases {product} lists them",
        )
    return older[0].number, last.number


def _cells(row: RowDifference) -> list[tuple[Any, ...]]:
    """Return one line for an added or removed row, and one per column for a changed one."""
    key = ", ".join(f"{k}={v}" for k, v in row.key.items())
    if row.before is None or row.after is None:
        return [(row.kind, key, "", _brief(row.before), _brief(row.after))]
    names = dict.fromkeys((*row.before, *row.after))
    return [
        (row.kind, key, name, row.before.get(name), row.after.get(name))
        for name in names
        if row.before.get(name) != row.after.get(name)
    ]


def _brief(row: dict[str, Any] | None) -> str | None:
    return None if row is None else ", ".join(f"{k}={v}" for k, v in row.items())
