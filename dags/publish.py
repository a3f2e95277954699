"""One Airflow DAG for each product declared under dags/products; nothing here is edited to add data."""

from __future__ import annotations

from jobs.airflow.dags import publish_dags

for _dag in publish_dags():
    globals()[_dag.dag_id] = _dag
