"""DAGs are made from declarations alone, import no engine, and survive a broken declaration among them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.airflow import generated
from tests.lake.extending import STEP, site_in

ReadDags = Callable[..., dict[str, Any]]
HEAVY = {"pyspark", "pysail", "great_expectations", "pandas", "pyarrow", "deltalake", "numpy"}


def test_declarations_added_to_an_empty_catalogue_become_dags(tmp_path: Path, read_dags: ReadDags) -> None:
    empty = read_dags(tmp_path)
    assert set(empty["dags"]) == {"upkeep"}
    assert empty["errors"] == []

    generated.declare(tmp_path, 1)
    read = read_dags(tmp_path)

    assert read["errors"] == []
    assert set(read["dags"]) == {"ingest_utility_source_0", "publish_product_0", "upkeep"}
    source, product = read["dags"]["ingest_utility_source_0"], read["dags"]["publish_product_0"]
    assert source["schedule"] == "0 0 29 2 *"
    assert source["tags"] == ["generated", "source", "utility"]
    assert source["title"] == "Generated source 0"
    assert "Publisher 0" in source["doc"]
    assert "CC0-1.0" in source["doc"]
    assert (source["catchup"], source["max_active_runs"]) == (False, 1)
    assert list(source["tasks"]) == ["land", "load", "check"]
    assert {task["owner"] for task in source["tasks"].values()} == {"data-engineering"}
    assert source["tasks"]["load"]["steps"] == ["bronze", "silver"]
    assert source["tasks"]["check"]["after"] == ["load"]
    assert source["tasks"]["check"]["outlets"] == {"silver.source_0": "exchange://lake/silver/source_0"}
    assert product["assets"] == ["silver.source_0"]
    assert list(product["tasks"]) == ["build", "check", "release"]
    assert {task["owner"] for task in product["tasks"].values()} == {"product-desk"}
    assert product["tasks"]["release"]["outlets"] == {"gold.product_0": "exchange://lake/gold/product_0"}
    assert "How much was drawn per area" in product["doc"]


def test_a_step_of_an_installed_package_is_a_task_of_every_source(
    tmp_path: Path, read_dags: ReadDags, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = site_in(tmp_path / "site", monkeypatch)
    site.install("exchange.steps", "tally", STEP)
    monkeypatch.setenv("PYTHONPATH", str(site.folder))
    generated.declare(tmp_path, 1)
    read = read_dags(tmp_path)
    tasks = read["dags"]["ingest_utility_source_0"]["tasks"]
    assert list(tasks) == ["land", "load", "check", "tally"]
    assert (tasks["tally"]["steps"], tasks["tally"]["after"]) == (["tally"], ["check"])
    assert tasks["check"]["outlets"] == {"silver.source_0": "exchange://lake/silver/source_0"}
    assert HEAVY.isdisjoint(name.split(".")[0] for name in read["modules"])


def test_parsing_the_default_catalogue_imports_no_engine(read_dags: ReadDags) -> None:
    root = Path(__file__).resolve().parents[2]
    read = read_dags(root)
    assert read["errors"] == []
    assert len(read["dags"]) >= 10
    assert HEAVY.isdisjoint(name.split(".")[0] for name in read["modules"])


def test_a_product_reads_all_its_inputs_and_products_may_read_products(tmp_path: Path, read_dags: ReadDags) -> None:
    generated.declare(tmp_path, 2)
    query = tmp_path / "dags/products/product_1/query.sql"
    query.write_text("SELECT area_code FROM gold.product_0 JOIN silver.source_1 USING (area_code)", encoding="utf-8")
    read = read_dags(tmp_path, "publish.py")
    assert read["dags"]["publish_product_1"]["assets"] == ["gold.product_0", "silver.source_1"]


@pytest.mark.parametrize(
    ("path", "before", "after", "place", "lost"),
    [
        ("dags/sources/utility/source_1/source.yaml", "cadence: ", "cadense: ", "source.yaml:6 (cadense)", True),
        ("dags/sources/utility/source_1/source.yaml", "title: G", "title: [G", "source.yaml:", True),
        ("dags/products/product_1/query.sql", "FROM silver.source_1", "FROM FROM", "query.sql", True),
        ("dags/products/product_1/query.sql", "silver.source_1", "silver.nowhere", "query.sql", False),
        ("expectations/silver/source_1.yaml", "physicalType: DATE", "physicalType: DAY", "source_1.yaml:13", False),
        ("expectations/gold/product_1.yaml", "kind: DataContract", "kind: Nothing", "product_1.yaml:2", False),
    ],
)
def test_a_broken_declaration_is_one_import_error_and_the_other_dags_load(
    tmp_path: Path, read_dags: ReadDags, path: str, before: str, after: str, place: str, lost: bool
) -> None:
    generated.declare(tmp_path, 2)
    file = tmp_path / path
    text = file.read_text(encoding="utf-8")
    assert before in text
    file.write_text(text.replace(before, after, 1), encoding="utf-8")

    read = read_dags(tmp_path)

    assert len(read["errors"]) == 1
    assert place in read["errors"][0]
    assert len(read["dags"]) == (4 if lost else 5)
    assert {"ingest_utility_source_0", "publish_product_0"} <= set(read["dags"])


def test_one_import_error_lists_every_mistake(tmp_path: Path, read_dags: ReadDags) -> None:
    generated.declare(tmp_path, 3)
    (tmp_path / "expectations/silver/source_0.yaml").unlink()
    (tmp_path / "dags/products/product_1/product.yaml").write_text("title: only\n", encoding="utf-8")
    (tmp_path / "dags/sources/utility/source_2/source.yaml").write_bytes(b"title: \xff\n")
    (message,) = read_dags(tmp_path)["errors"]
    assert all(name in message for name in ("source_0.yaml", "product_1/product.yaml", "source_2/source.yaml"))


def test_a_task_parses_only_its_own_dag(tmp_path: Path, read_dags: ReadDags, monkeypatch: pytest.MonkeyPatch) -> None:
    generated.declare(tmp_path, 3)
    monkeypatch.setenv("_AIRFLOW_PARSING_CONTEXT_DAG_ID", "ingest_utility_source_1")
    assert list(read_dags(tmp_path, "ingest.py")["dags"]) == ["ingest_utility_source_1"]


def test_each_file_of_six_hundred_declarations_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs.airflow.dags import ingest_dags, publish_dags
    from jobs.airflow.mistakes import refuse_mistakes

    generated.declare(tmp_path, 300)
    monkeypatch.setenv("EXCHANGE_CATALOGUE", str(tmp_path))
    reads, read_text = Counter[str](), Path.read_text

    def counted(file: Path, *arguments: Any, **options: Any) -> str:
        reads[str(file)] += file.is_relative_to(tmp_path)
        return read_text(file, *arguments, **options)

    # The benchmark measures the time; this catches what would grow faster than the catalogue.
    monkeypatch.setattr(Path, "read_text", counted)
    assert len([*ingest_dags(), *publish_dags()]) == 600
    assert Counter((+reads).values()) == {1: 900}
    reads.clear()
    refuse_mistakes()
    assert Counter((+reads).values()) == {1: 1500}
