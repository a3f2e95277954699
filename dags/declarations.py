"""Shows every mistake in a declaration, contract or query as an Airflow import error, while the valid DAGs run."""

from __future__ import annotations

from jobs.airflow.mistakes import refuse_mistakes

# Airflow reads only files that contain both words, "airflow" and "dag": here the docstring has them.
refuse_mistakes()
