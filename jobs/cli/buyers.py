"""Commands about buyers: grants, what they read, and the sharing server."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.cli.options import AsJson, Limit, ProductName
from jobs.cli.show import document, line, listing, note
from jobs.errors import ExchangeError

if TYPE_CHECKING:
    from jobs.registry.models import Grant

OnlyProduct = Annotated[str | None, typer.Option("--product", help="Only those of this product.")]
OnlyBuyer = Annotated[str | None, typer.Option("--buyer", help="Only those of this buyer.")]


def grant(
    product: ProductName,
    buyer: Annotated[str, typer.Option("--to", metavar="BUYER", help="Who may read it; enrolled if new.")],
    days: Annotated[int, typer.Option("--days", help="How long, from now.")],
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", help="The server's address as the buyer sees it.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the profile to this new file, for its owner only.")
    ] = None,
) -> None:
    """Let a buyer read a product; prints the Delta Sharing profile, with its token, this once."""
    from jobs.exchange.grants import create_grant

    if out is None:
        new, profile = create_grant(product, buyer, days, endpoint)
        print(json.dumps(profile, indent=2))
    else:
        # The file is opened before the grant is made: a token that cannot be written would be lost.
        with _new_file(out) as descriptor:
            new, profile = create_grant(product, buyer, days, endpoint)
            descriptor.write(json.dumps(profile, indent=2) + "\n")
    where = f"its profile is in {out}" if out else "this profile is the only copy of its token"
    note(f"grant {new.id}: {buyer} may read {product} until {new.expires_at:%Y-%m-%d %H:%M} UTC; {where}")


def grants(product: OnlyProduct = None, buyer: OnlyBuyer = None, as_json: AsJson = False) -> None:
    """List the grants and whether each is valid now."""
    from jobs.exchange import grants as ledger

    listing(
        [_grant(g) for g in ledger.grants(product=product, buyer=buyer)],
        ("grant", "product", "buyer", "standing", "not_before", "expires_at", "revoked_at", "revoked_reason"),
        as_json=as_json,
        empty="there are no grants yet. Next: exchange grant <product> --to <buyer> --days <n>",
    )


def revoke(
    which: Annotated[str, typer.Argument(metavar="GRANT|PRODUCT", help="A grant's number, or a product with --from.")],
    buyer: Annotated[
        str | None, typer.Option("--from", "--to", "--buyer", metavar="BUYER", help="Whose grants.")
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why; kept with the grant.")] = "taken back by the exchange",
    as_json: AsJson = False,
) -> None:
    """Revoke a grant; the buyer's next request is refused."""
    from jobs.exchange import grants as ledger

    if which.isdigit():
        revoked = ledger.revoke(reason, grant_id=int(which), buyer=buyer)
    elif buyer is None:
        raise ExchangeError(
            f"several buyers may hold a grant on '{which}'",
            expected="the buyer (--from <buyer>), or a grant's number",
            next_step=f"exchange grants --product {which} lists the grants",
        )
    else:
        revoked = ledger.revoke(reason, product=which, buyer=buyer)
    if as_json:
        document([_grant(g) for g in revoked])
        return
    for ended in revoked:
        line(f"grant {ended.id} is revoked: {ended.buyer.name} can no longer read {ended.product}")


def usage(
    product: OnlyProduct = None,
    buyer: OnlyBuyer = None,
    requests: Annotated[bool, typer.Option("--requests", help="List each request instead of totals.")] = False,
    refused: Annotated[
        bool, typer.Option("--refused", help="List requests without a valid token, by minute and address.")
    ] = False,
    limit: Limit = 100,
    as_json: AsJson = False,
) -> None:
    """Show what buyers read: totals per buyer and product, or each request or refusal, newest first."""
    from dataclasses import asdict

    from jobs.exchange import usage as meter

    if refused and (requests or product or buyer):
        raise ExchangeError(
            "--refused lists requests that name no buyer",
            expected="--refused without --requests, --product and --buyer",
        )
    if refused:
        shown: tuple[str, ...] = ("first_at", "last_at", "address", "operation", "status", "requests", "reason")
        records = [{f: getattr(r, f) for f in shown} for r in meter.refusals(limit)]
    elif requests:
        fields = (
            "at", "buyer", "product", "version", "operation", "status", "allowed", "files", "bytes", "reason",
            "client", "grant_id", "request_id",
        )  # fmt: skip
        records = [{f: getattr(u, f) for f in fields} for u in meter.usage(product=product, buyer=buyer, limit=limit)]
        shown = fields[:10]
    else:
        records = [asdict(t) for t in meter.summary(product=product, buyer=buyer)[:limit]]
        shown = ("buyer", "product", "requests", "denied", "files", "bytes", "first_at", "last_at")
    listing(records, shown, as_json=as_json, empty="there have been no requests yet")


def participants(as_json: AsJson = False) -> None:
    """List the exchange's participants and their roles."""
    from jobs.exchange.participants import participants as all_participants

    listing(
        [{"name": p.name, "role": p.role, "enrolled_at": p.created_at} for p in all_participants()],
        ("name", "role", "enrolled_at"),
        as_json=as_json,
        empty="there are no participants yet; a grant enrols its buyer",
    )


def enrol(
    name: Annotated[str, typer.Argument(help="The participant's name.")],
    role: Annotated[str, typer.Option("--role", help="provider, broker, buyer, assessor or staff.")],
    as_json: AsJson = False,
) -> None:
    """Enrol a participant."""
    from jobs.exchange.participants import enrol as enrol_participant

    enrolled = enrol_participant(name, role)
    if as_json:
        document({"name": enrolled.name, "role": enrolled.role, "enrolled_at": enrolled.created_at})
        return
    line(f"{enrolled.name} is enrolled as {enrolled.role}")


def serve(
    host: Annotated[
        str | None, typer.Option("--host", help="Address to listen on; this machine only by default.")
    ] = None,
    port: Annotated[int | None, typer.Option("--port", min=0, max=65535, help="Port to listen on.")] = None,
) -> None:
    """Run the Delta Sharing server until Ctrl-C."""
    from jobs.exchange.grants import PREFIX
    from jobs.settings import settings
    from jobs.share.connection import is_loopback
    from jobs.share.server import serve as serve_share

    here = settings()
    shown, number = host or here.share_host, here.share_port if port is None else port
    note(f"serving http://{f'[{shown}]' if ':' in shown else shown}:{number}{PREFIX}")
    if not is_loopback(shown):
        note(
            "warning: tokens and data travel in clear between clients and this server, which has no TLS. "
            "Next: a proxy that ends TLS before it (infra/README.md, TLS)"
        )
    serve_share(host, port)


def _grant(grant: Grant) -> dict[str, Any]:
    from jobs.exchange.grants import standing

    return {
        "grant": grant.id,
        "product": grant.product,
        "buyer": grant.buyer.name,
        "standing": standing(grant, datetime.now(UTC)).value,
        "not_before": grant.not_before,
        "expires_at": grant.expires_at,
        "revoked_at": grant.revoked_at,
        "revoked_reason": grant.revoked_reason,
        "created_at": grant.created_at,
    }


class _new_file:
    """A new text file, readable by its owner only; removed if the block fails."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Any:
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise ExchangeError("the file exists already", where=str(self._path), expected="a new file") from None
        except OSError as error:
            raise ExchangeError(f"cannot write the file ({error.strerror})", where=str(self._path)) from None
        self._file = os.fdopen(descriptor, "w", encoding="utf-8")
        return self._file

    def __exit__(self, kind: object, *_: object) -> None:
        self._file.close()
        if kind is not None:
            self._path.unlink(missing_ok=True)
