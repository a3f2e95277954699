"""Check: expectations run on the very version that was built, and decide, score and keep the evidence."""

import os

from jobs.check.evidence import read_evidence

__all__ = ["read_evidence"]

# Set before anything here imports Great Expectations: it reports its usage by default, and without internet the process
# would then hang at exit.
os.environ["GX_ANALYTICS_ENABLED"] = "false"
