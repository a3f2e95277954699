"""Operate: upkeep, rebuilding, relocating, the doctor, and a cluster on this machine."""
