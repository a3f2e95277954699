"""The command line `exchange`: what Airflow calls, and what engineers, exchange staff and buyers ask."""

from jobs.cli.program import main

__all__ = ["main"]
