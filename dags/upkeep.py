"""The one Airflow DAG that keeps all tables quick and small, every night."""

from __future__ import annotations

from jobs.airflow.dags import upkeep_dag

dag = upkeep_dag()
