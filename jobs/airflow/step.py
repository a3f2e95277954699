"""The one operator of all DAGs: it calls the same step functions as the command line, and only then loads them."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

if TYPE_CHECKING:
    from airflow.sdk import Context

    from jobs.flow import StepRun

# A publisher that is down is tried again after 10, 20, 40, 80 and 160 seconds, five minutes in all.
RETRIES = 5
FIRST_DELAY = timedelta(seconds=10)
LONGEST_DELAY = timedelta(minutes=5)


class StepOperator(BaseOperator):
    """Runs one or several steps of a source or product, in order, within one process.

    Args:
        steps: names of the steps, for example ``("bronze", "silver")``.
        subject: the source, product or table they work on.

    The task is skipped, and with it everything downstream, when the last step had nothing to do. It is tried again
    only when the cause may pass: the publisher, the object store, the database or the engine is away, or another
    process is writing the same table. Any other failure is final.
    """

    ui_color = "#e8f1ec"

    def __init__(self, *, steps: tuple[str, ...], subject: str, **kwargs: Any) -> None:
        super().__init__(
            retries=RETRIES,
            retry_delay=FIRST_DELAY,
            retry_exponential_backoff=2.0,
            max_retry_delay=LONGEST_DELAY,
            do_xcom_push=False,
            **kwargs,
        )
        self.steps = steps
        self.subject = subject

    def execute(self, context: Context) -> None:
        """Run the steps for the logical date of the DAG run."""
        from jobs.errors import ExchangeError, Transient

        dag_run = context["dag_run"]
        try:
            for step in self.steps:
                result = self._run(step, logical_date(dag_run), dag_run.run_id)
        except Transient as error:
            if _tries_are_spent(context):
                raise AirflowFailException(str(error)) from None
            raise AirflowException(str(error)) from None
        except ExchangeError as error:
            raise AirflowFailException(str(error)) from None
        except Exception as error:
            raise AirflowFailException(f"{type(error).__name__}: {error}") from error
        if result.status == "unchanged":
            raise AirflowSkipException(result.message or "unchanged")

    def _run(self, step: str, date: datetime, run_id: str) -> StepRun:
        from jobs.flow import run_step

        result = run_step(step, self.subject, date, run_id)
        self.log.log(
            logging.WARNING if result.outcome.is_warning else logging.INFO,
            "%s %s: %s, %s rows in %.1f s %s",
            step, self.subject, result.status, result.rows, result.seconds, result.message or "",
        )  # fmt: skip
        return result


class UpkeepOperator(BaseOperator):
    """Maintains all tables; a locked one is left for the next night."""

    ui_color = "#e8f1ec"

    def execute(self, context: Context) -> None:  # noqa: ARG002 - it does the same whatever the date
        """Maintain them, and log what was done to each table."""
        from jobs.errors import ExchangeError
        from jobs.operate.upkeep import upkeep

        try:
            report = upkeep()
        except ExchangeError as error:
            raise AirflowFailException(str(error)) from None
        for kept in report.tables:
            self.log.info(
                "%s %s: %s to %s files, %s and %s of the log removed (%s bytes) %s",
                kept.table, kept.status, kept.files_before, kept.files_after, kept.removed_files,
                kept.removed_log_files, kept.removed_bytes, kept.message,
            )  # fmt: skip
        self.log.info("the registry was copied to %s", report.backup)
        for orphan in report.orphans:
            self.log.warning("landed file %s", orphan)
        if report.damaged:
            raise AirflowFailException("releases are not as they were sold: " + "; ".join(report.damaged))


def logical_date(dag_run: Any) -> datetime:
    """The instant a task works on: the logical date, or the time it became due where a run has none (Asset, manual)."""
    instant: datetime = dag_run.logical_date or dag_run.run_after
    return instant


def _tries_are_spent(context: Context) -> bool:
    # A run that a user waits for gets fewer tries than a scheduled one; its conf says how many.
    tries = (context["dag_run"].conf or {}).get("tries")
    return tries is not None and context["ti"].try_number >= int(tries)
