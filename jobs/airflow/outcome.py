"""The result of a round: each product's newest release, and whether this round made it."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace

from jobs.airflow.display import ProductOutcome
from jobs.airflow.progress import Subject
from jobs.declared.catalog import Catalog, Product
from jobs.declared.contract import load_contract
from jobs.declared.drafts import unfinished
from jobs.errors import DeclarationError
from jobs.registry.models import Release
from jobs.registry.releases import newest_published


def outcomes_of(
    catalog: Catalog, before: dict[str, Release], subjects: dict[str, Subject], drafts: Collection[str]
) -> list[ProductOutcome]:
    """One line for each declared product, compared with the releases before the round.

    Args:
        catalog: the declarations.
        before: the newest releases before the round, by product.
        subjects: what ran, by DAG id.
        drafts: names of the products that `drafts_of` holds back.
    """
    now = newest_published()
    outcomes = [
        _outcome(product, now.get(product.name), before.get(product.name), subjects.get(product.dag_id))
        for product in catalog.products.values()
    ]
    return [
        replace(o, news="a draft, not released") if o.product in drafts and o.news != "new" else o for o in outcomes
    ]


def drafts_of(catalog: Catalog) -> dict[str, DeclarationError]:
    """The products that are built and checked but not released, with the first place that is unfinished."""
    drafts = {}
    for product in catalog.products.values():
        # A broken contract is reported as a mistake of the catalogue.
        with suppress(DeclarationError):
            for place in unfinished(product, load_contract(product.table))[:1]:
                drafts[product.name] = place
    return drafts


def _outcome(product: Product, now: Release | None, before: Release | None, subject: Subject | None) -> ProductOutcome:
    if now is None:
        no_release = f"no release yet: waits for {', '.join(product.inputs)}"
        news = "failed" if subject and subject.state == "failed" else no_release
        return ProductOutcome(product.name, "", None, "", product.declared.licence.id, news)
    if before is None or before.id != now.id:
        news = "new"
    else:
        news = "failed, the previous release stays" if subject and subject.state == "failed" else "unchanged"
    return ProductOutcome(product.name, now.number, now.rows, now.grade, now.licence, news)
