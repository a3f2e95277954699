"""Gold: one table per product, built by one query."""
