"""Lets `python -m jobs.cli` do what the console script `exchange` does."""

from jobs.cli import main

main()
