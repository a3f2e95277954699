"""Bronze: landed bytes become rows as received, by formats."""
