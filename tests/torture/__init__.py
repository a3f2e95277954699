"""Kills processes working on the default catalogue at random instants, and compares the resulting tables."""
