"""The command line `exchange`, for engineers, exchange staff and buyers."""

from jobs.cli.program import main

__all__ = ["main"]
