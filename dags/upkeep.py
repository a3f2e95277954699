"""The one Airflow DAG that keeps all tables quick and small, every night."""

from __future__ import annotations

from jobs.airflow.dags import upkeep_dag

_dag = upkeep_dag()
globals()[_dag.dag_id] = _dag
