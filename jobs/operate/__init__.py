"""Keeping it running: upkeep, rebuilding, moving, examining, and a cluster on this machine."""
