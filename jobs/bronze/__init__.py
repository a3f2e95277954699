"""Bronze: formats turn landed bytes into rows as received."""
