"""Lists the share, its schema, and the tables that the buyer who asks may read."""

from __future__ import annotations

import uuid
from typing import Any

from fastapi import APIRouter, Request

from jobs.share import paging
from jobs.share.access import SCHEMA, SHARE, Visitor, authenticate, require_schema, require_share, tables_of
from jobs.share.errors import Json
from jobs.share.meter import MeteredRoute, ask, entry_of
from jobs.share.tickets import signer

router = APIRouter(route_class=MeteredRoute)

# Ids are derived from names, so every server gives a table the same id for as long as it keeps its name.
_IDS = uuid.UUID("6f0b8f7e-2f0c-4c41-9a0f-3d2f3d7a5b11")


@router.get("/shares", name="list")
async def list_shares(http: Request) -> Json:
    """List the shares; there is only one."""
    return _listing(http, await _visitor(http), "shares", {SHARE: _share()})


@router.get("/shares/{share}", name="list")
async def get_share(http: Request, share: str) -> Json:
    """Describe a share."""
    await _visitor(http)
    require_share(share)
    return Json({"share": _share()})


@router.get("/shares/{share}/schemas", name="list")
async def list_schemas(http: Request, share: str) -> Json:
    """List the schemas of a share; there is only one."""
    visitor = await _visitor(http)
    require_share(share)
    return _listing(http, visitor, "schemas", {SCHEMA: {"name": SCHEMA, "share": SHARE}})


@router.get("/shares/{share}/schemas/{schema}/tables", name="list")
async def list_tables(http: Request, share: str, schema: str) -> Json:
    """List the tables of a schema that this buyer may read."""
    visitor = await _visitor(http)
    require_schema(share, schema)
    return _listing(http, visitor, "tables", await _tables(http, visitor))


@router.get("/shares/{share}/all-tables", name="list")
async def list_all_tables(http: Request, share: str) -> Json:
    """List the tables of all schemas that this buyer may read."""
    visitor = await _visitor(http)
    require_share(share)
    return _listing(http, visitor, "all-tables", await _tables(http, visitor))


async def _visitor(http: Request) -> Visitor:
    authorization, entry = http.headers.get("authorization"), entry_of(http)
    return await ask(http, lambda session: authenticate(session, authorization, entry))


def _listing(http: Request, visitor: Visitor, kind: str, items: dict[str, dict[str, Any]]) -> Json:
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
    return Json(answer)


async def _tables(http: Request, visitor: Visitor) -> dict[str, dict[str, Any]]:
    names = await ask(http, lambda session: tables_of(session, visitor))
    return {
        name: {
            "name": name,
            "schema": SCHEMA,
            "share": SHARE,
            "shareId": _id(SHARE),
            "id": _id(f"{SHARE}.{SCHEMA}.{name}"),
        }
        for name in names
    }


def _share() -> dict[str, str]:
    return {"name": SHARE, "id": _id(SHARE)}


def _id(name: str) -> str:
    return str(uuid.uuid5(_IDS, name))
