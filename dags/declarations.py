"""Makes every mistake in a declaration, contract or query an Airflow DAG import error, while the sound ones run."""

from __future__ import annotations

from jobs.airflow.mistakes import refuse_mistakes

refuse_mistakes()
