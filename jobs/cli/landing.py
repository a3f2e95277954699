"""Commands about landed files: what landed, and to drop a file that no table may have."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from jobs.cli.options import AsJson, SourceName, user_name
from jobs.cli.show import document, line, listing
from jobs.errors import ExchangeError, NotFound

_SHORTEST = 8
_LONGEST_REASON = 512


def files(
    source: SourceName,
    as_json: AsJson = False,
) -> None:
    """List a source's landed files in the order of arrival, with what bronze has of them."""
    from jobs.registry.landings import landings_of

    fields = (
        "sha256", "file_name", "size", "fetched_at", "logical_date", "rows", "rows_refused", "fault", "dropped_at",
        "dropped_by", "drop_reason",
    )  # fmt: skip
    rows: list[dict[str, Any]] = [{name: getattr(each, name) for name in fields} for each in landings_of(source)]
    shown = [row if as_json else row | {"sha256": row["sha256"][:12]} for row in rows]
    listing(shown, fields, as_json=as_json, empty=f"nothing of '{source}' has landed. Next: exchange land {source}")


def drop(
    which: Annotated[str, typer.Argument(metavar="SHA256", help="Of the file; its first 8 characters or more.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; kept with the file.")],
    source: Annotated[str | None, typer.Option("--source", help="If several sources landed these bytes.")] = None,
    by: Annotated[str | None, typer.Option("--by", help="Who decided it; your user name by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Keep a landed file out of all tables from the next run on; its bytes and its record stay."""
    from jobs.registry.landings import drop_landings, landings_like

    if not reason.strip() or len(reason) > _LONGEST_REASON:
        expected = f"--reason with 1 to {_LONGEST_REASON} characters"
        raise ExchangeError("dropping a file needs a reason", expected=expected)
    if len(which) < _SHORTEST:
        raise ExchangeError(f"'{which}' is too short", expected=f"{_SHORTEST} to 64 characters of a sha256")
    found = landings_like(which.lower(), source)
    if len({(f.source, f.sha256) for f in found}) != 1:
        kind = ExchangeError if found else NotFound
        raise kind(
            f"{len(found) or 'no'} landed files begin with {which}",
            expected=", ".join(f"{f.sha256[:16]} of '{f.source}'" for f in found) or "the sha256 of a landed file",
            next_step="exchange landing files <source> lists them" if not found else "give more of it, or --source",
        )
    landing = found[-1]
    if not drop_landings(landing.source, landing.sha256, by or user_name(), reason.strip()):
        raise ExchangeError(
            f"{landing.file_name} is dropped already" if landing.dropped_at
            else f"{landing.file_name} is the only file of '{landing.source}', and its table would be left empty",
            next_step=f"exchange landing files {landing.source} lists them",
        )  # fmt: skip
    if as_json:
        document({"source": landing.source, "sha256": landing.sha256, "file_name": landing.file_name})
        return
    line(f"{landing.file_name} of '{landing.source}' is dropped: its rows leave with the next run")
    line(f"  exchange bronze {landing.source} && exchange silver {landing.source} && exchange check {landing.source}")
