"""One Airflow DAG for each source declared under dags/sources; nothing here is edited to add data."""

from __future__ import annotations

from jobs.airflow.dags import ingest_dags

for _dag in ingest_dags():
    globals()[_dag.dag_id] = _dag
