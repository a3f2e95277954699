"""Writes a first declaration and contract from the data itself, so that adding data begins with editing, not typing."""

from jobs.scaffold.product import new_product
from jobs.scaffold.source import new_source

__all__ = ["new_product", "new_source"]
