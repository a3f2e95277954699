"""Rows as Arrow columns in this process: what needs no engine, which would spend more on receiving them."""
