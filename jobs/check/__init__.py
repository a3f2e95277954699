"""Check: expectations run on the very version that was built, and decide, score and keep the evidence."""

from jobs.check.evidence import read_evidence

__all__ = ["read_evidence"]
