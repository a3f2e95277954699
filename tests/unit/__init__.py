"""What needs no engine and no server."""
