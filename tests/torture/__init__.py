"""Kills whatever works on the default catalogue, at random instants, and looks whether the tables come out the same."""
