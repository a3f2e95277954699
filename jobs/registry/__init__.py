"""The exchange's records in a relational database: what landed, ran, was checked, released, granted and read."""

from jobs.registry.database import engine, own_connection, reading, transaction

__all__ = ["engine", "own_connection", "reading", "transaction"]
