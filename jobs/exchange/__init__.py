"""The exchange: who takes part, who may read what, and what was read."""
