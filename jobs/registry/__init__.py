"""The exchange's records in a relational database: landings, runs, checks, releases, grants and usage."""

from jobs.registry.database import engine, own_connection, reading, transaction

__all__ = ["engine", "own_connection", "reading", "transaction"]
