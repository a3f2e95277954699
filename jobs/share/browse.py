"""Lists the share, its schema, and the tables that the buyer who asks may read."""

from __future__ import annotations

import uuid
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from jobs.share import paging
from jobs.share.access import SCHEMA, SHARE, Visitor, authenticate, require_schema, require_share
from jobs.share.meter import metered
from jobs.share.tickets import signer

router = APIRouter()

# Ids are derived from names, so every server gives a table the same id for as long as it keeps its name.
_IDS = uuid.UUID("6f0b8f7e-2f0c-4c41-9a0f-3d2f3d7a5b11")


@router.get("/shares")
def list_shares(http: Request) -> JSONResponse:
    """List the shares; there is only one."""
    with metered(http, "list") as entry:
        visitor = authenticate(http.headers.get("authorization"), entry)
        return _listing(http, visitor, "shares", {SHARE: _share()})


@router.get("/shares/{share}")
def get_share(http: Request, share: str) -> JSONResponse:
    """Describe a share."""
    with metered(http, "list") as entry:
        authenticate(http.headers.get("authorization"), entry)
        require_share(share)
        return JSONResponse({"share": _share()})


@router.get("/shares/{share}/schemas")
def list_schemas(http: Request, share: str) -> JSONResponse:
    """List the schemas of a share; there is only one."""
    with metered(http, "list") as entry:
        visitor = authenticate(http.headers.get("authorization"), entry)
        require_share(share)
        return _listing(http, visitor, "schemas", {SCHEMA: {"name": SCHEMA, "share": SHARE}})


@router.get("/shares/{share}/schemas/{schema}/tables")
def list_tables(http: Request, share: str, schema: str) -> JSONResponse:
    """List the tables of a schema that this buyer may read."""
    with metered(http, "list") as entry:
        visitor = authenticate(http.headers.get("authorization"), entry)
        require_schema(share, schema)
        return _listing(http, visitor, "tables", _tables(visitor))


@router.get("/shares/{share}/all-tables")
def list_all_tables(http: Request, share: str) -> JSONResponse:
    """List the tables of all schemas that this buyer may read."""
    with metered(http, "list") as entry:
        visitor = authenticate(http.headers.get("authorization"), entry)
        require_share(share)
        return _listing(http, visitor, "all-tables", _tables(visitor))


def _listing(http: Request, visitor: Visitor, kind: str, items: dict[str, dict[str, Any]]) -> JSONResponse:
    names, following = paging.page(
        list(items),
        listing=f"{kind} of {visitor.buyer}",
        signer=signer(),
        max_results=http.query_params.get("maxResults"),
        page_token=http.query_params.get("pageToken"),
    )
    answer: dict[str, Any] = {"items": [items[name] for name in names]}
    if following is not None:
        answer["nextPageToken"] = following
    return JSONResponse(answer)


def _tables(visitor: Visitor) -> dict[str, dict[str, Any]]:
    return {
        table.name: {
            "name": table.name,
            "schema": SCHEMA,
            "share": SHARE,
            "shareId": _id(SHARE),
            "id": _id(f"{SHARE}.{SCHEMA}.{table.name}"),
        }
        for table in visitor.tables.values()
    }


def _share() -> dict[str, str]:
    return {"name": SHARE, "id": _id(SHARE)}


def _id(name: str) -> str:
    return str(uuid.uuid5(_IDS, name))
