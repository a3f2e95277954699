"""The registry's schema, step by step, so that a database with records in it can follow the program."""
