"""Shows every mistake in a declaration, contract or query as an Airflow import error, while the valid ones run."""

from __future__ import annotations

from jobs.airflow.mistakes import refuse_mistakes

refuse_mistakes()
