"""The Airflow DAG that compacts and vacuums all tables every night."""

from __future__ import annotations

from jobs.airflow.dags import upkeep_dag

dag = upkeep_dag()
