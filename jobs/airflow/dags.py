"""Turns declarations into Airflow DAGs; everything a DAG says about itself comes from the declaration."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from airflow.sdk import DAG, Asset, AssetAny, get_parsing_context

from jobs.airflow.step import StepOperator, UpkeepOperator
from jobs.declared.catalog import Licence, Product, Source, load_products, load_sources
from jobs.steps import Step, Subject, steps_of

# One run of a DAG at a time, and only the newest of the schedules missed while Airflow was down.
_SHARED: dict[str, Any] = {"catchup": False, "max_active_runs": 1}

_UPKEEP = "What `exchange upkeep` does: versions of live releases, checked versions and the last days' files are kept."


def ingest_dags() -> Iterator[DAG]:
    """Make one DAG for each source with a valid declaration; inside a task, only that task's DAG."""
    return (_ingest(source) for source in load_sources(only=get_parsing_context().dag_id).sources.values())


def publish_dags() -> Iterator[DAG]:
    """Make one DAG for each product with a valid declaration and query; inside a task, only that task's DAG."""
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
    """The Asset for the checked version of a table, for example ``silver.smart_meter_readings``."""
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
    _add_tasks(dag, source, steps_of("source"))
    return dag


def _publish(product: Product) -> DAG:
    declared = product.declared
    dag = DAG(
        product.dag_id,
        # Any of them: a product of daily rates and a yearly count is built daily.
        schedule=AssetAny(*(asset(table) for table in product.inputs)),
        description=declared.title,
        doc_md=_product_page(product),
        tags={"product", *declared.tags},
        **_SHARED,
    )
    _add_tasks(dag, product, steps_of("product"))
    return dag


def _add_tasks(dag: DAG, subject: Source | Product, steps: tuple[Step, ...]) -> None:
    """Add one task after the other; neighbours of the same task share its process."""
    kind: Subject = "source" if isinstance(subject, Source) else "product"
    before: StepOperator | None = None
    for task_id, neighbours in groupby(steps, key=lambda step: step.task or step.name):
        together = tuple(neighbours)
        more: dict[str, Any] = {}
        if any(kind in step.announces for step in together):
            more["outlets"] = [asset(subject.table)]
        if any(step.runs_after_unchanged for step in together):
            more["trigger_rule"] = "none_failed"
        task = StepOperator(
            task_id=task_id,
            steps=tuple(step.name for step in together),
            # A step of both sources and products needs the table's name to tell them apart.
            subject=subject.table if any(len(step.of) > 1 for step in together) else subject.name,
            doc_md=" ".join(step.does for step in together),
            owner=subject.declared.owner,
            dag=dag,
            **more,
        )
        if before is not None:
            before >> task
        before = task


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
