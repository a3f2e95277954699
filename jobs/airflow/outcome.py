"""The result of a round: each product's newest release, and whether this round made it."""

from __future__ import annotations

from jobs.airflow.display import ProductOutcome
from jobs.airflow.progress import Subject
from jobs.declared.catalog import Catalog, Product
from jobs.registry.models import Release
from jobs.registry.releases import newest_published


def outcomes_of(catalog: Catalog, before: dict[str, Release], subjects: dict[str, Subject]) -> list[ProductOutcome]:
    """One line for each declared product, compared with the releases before the round."""
    now = newest_published()
    return [
        _outcome(product, now.get(product.name), before.get(product.name), subjects.get(product.dag_id))
        for product in catalog.products.values()
    ]


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
