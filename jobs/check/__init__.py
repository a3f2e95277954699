"""Check: runs a table's expectations on the version just built, decides, scores, and keeps the evidence."""

import os

from jobs.check.blocks import Block, blocked
from jobs.check.evidence import read_evidence

__all__ = ["Block", "blocked", "read_evidence"]

# Set before anything here imports Great Expectations, which by default reports its usage: without internet, the process
# then hangs at exit.
os.environ["GX_ANALYTICS_ENABLED"] = "false"
