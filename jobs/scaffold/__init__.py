"""Proposes a declaration and a contract from the data, so that an engineer edits instead of typing."""

from jobs.scaffold.product import new_product
from jobs.scaffold.source import new_source

__all__ = ["new_product", "new_source"]
