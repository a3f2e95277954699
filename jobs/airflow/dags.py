"""Turns declarations into Airflow DAGs; everything a DAG says about itself comes from the declaration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from airflow.sdk import DAG, Asset, AssetAll, get_parsing_context

from jobs.airflow.step import StepOperator, UpkeepOperator
from jobs.declared.catalog import Licence, Product, Source, load_products, load_sources

# One run of a DAG at a time, and only the newest of the schedules missed while Airflow was down.
_SHARED: dict[str, Any] = {"catchup": False, "max_active_runs": 1}

_LAND = "Fetches what the publisher has now; new bytes are kept as received, under their sha256."
_LOAD = "Reads the landed files into text rows (bronze), then types, keys and splits them into silver and quarantine."
_BUILD = "Runs the product's query over the checked versions of its inputs."
_CHECK = "Runs the contract's expectations on the version just built; only if they hold does it become the checked one."
_UPKEEP = "What `exchange upkeep` does: versions of live releases, checked versions and the last days' files are kept."
_RELEASE = "Gives the checked version a number, a manifest and a certificate."


def ingest_dags() -> Iterator[DAG]:
    """Make one DAG for each source whose declaration is sound; inside a task, only the DAG of that task."""
    return (_ingest(source) for source in load_sources(only=get_parsing_context().dag_id).sources.values())


def publish_dags() -> Iterator[DAG]:
    """Make one DAG for each product whose declaration and query are sound; inside a task, only the DAG of that task."""
    return (_publish(product) for product in load_products(only=get_parsing_context().dag_id).products.values())


def upkeep_dag() -> DAG:
    """Make the DAG that maintains all tables."""
    dag = DAG(
        "upkeep",
        schedule="30 3 * * *",
        description="Compacts small files and vacuums those that no version in use references",
        doc_md=_UPKEEP,
        tags={"upkeep"},
        **_SHARED,
    )
    UpkeepOperator(task_id="upkeep", owner="data-engineering", dag=dag, doc_md=_UPKEEP)
    return dag


def asset(table: str) -> Asset:
    """The Asset that stands for the checked version of a table, such as ``silver.smart_meter_readings``."""
    layer, name = table.split(".", 1)
    return Asset(name=table, uri=f"exchange://lake/{layer}/{name}", group=layer)


def _ingest(source: Source) -> DAG:
    declared = source.declared
    dag = DAG(
        source.dag_id,
        schedule=declared.cadence,
        description=declared.title,
        doc_md=_source_page(source),
        tags={"source", source.sector, *declared.tags},
        **_SHARED,
    )
    plan: dict[str, Any] = {"owner": declared.owner, "dag": dag}
    land = StepOperator(task_id="land", steps=("land",), subject=source.name, doc_md=_LAND, **plan)
    load = StepOperator(task_id="load", steps=("bronze", "silver"), subject=source.name, doc_md=_LOAD, **plan)
    plan["outlets"] = [asset(source.table)]
    check = StepOperator(task_id="check", steps=("check",), subject=source.table, doc_md=_CHECK, **plan)
    land >> load >> check
    return dag


def _publish(product: Product) -> DAG:
    declared = product.declared
    dag = DAG(
        product.dag_id,
        schedule=AssetAll(*(asset(table) for table in product.inputs)),
        description=declared.title,
        doc_md=_product_page(product),
        tags={"product", *declared.tags},
        **_SHARED,
    )
    plan: dict[str, Any] = {"owner": declared.owner, "dag": dag}
    build = StepOperator(task_id="build", steps=("gold",), subject=product.name, doc_md=_BUILD, **plan)
    check = StepOperator(task_id="check", steps=("check",), subject=product.table, doc_md=_CHECK, **plan)
    plan["outlets"] = [asset(product.table)]
    # Also after a build that found nothing to do: a run killed between check and release left its version unreleased.
    plan["trigger_rule"] = "none_failed"
    release = StepOperator(task_id="release", steps=("release",), subject=product.name, doc_md=_RELEASE, **plan)
    build >> check >> release
    return dag


def _source_page(source: Source) -> str:
    declared, rights = source.declared, source.declared.rights
    lines = [
        f"# {declared.title}",
        f"Published by [{declared.publisher.name}]({declared.publisher.url}), fetched at `{declared.cadence}` (UTC).",
        f"Makes the table `{source.table}`, in the mode `{declared.silver.mode}`.",
        _terms(declared.licence),
        f"Rights: redistribution {rights.redistribution}, by {rights.basis}: {rights.evidence}",
    ]
    return "\n\n".join(lines)


def _product_page(product: Product) -> str:
    declared = product.declared
    lines = [
        f"# {declared.title}",
        f"Answers: {declared.question}",
        f"For {', '.join(declared.buyers)}.",
        f"Makes the table `{product.table}` from {', '.join(f'`{table}`' for table in product.inputs)}.",
        _terms(declared.licence),
        *(f"Caution: {caution}" for caution in declared.cautions),
    ]
    return "\n\n".join(lines)


def _terms(licence: Licence) -> str:
    attribution = f"; attribution: {licence.attribution}" if licence.attribution else ""
    return f"Licence: [{licence.id}]({licence.url}){attribution}"
