"""The registry's tables: landings, runs, checks, releases, grants and usage."""

from jobs.registry.models.exchange import Grant, Participant, RefusedRequests, Usage, UsageDay
from jobs.registry.models.lake import (
    RELEASES_LISTED,
    Check,
    Identity,
    Landing,
    Lease,
    Pointer,
    Recall,
    RefusedBatch,
    Release,
    Run,
)
from jobs.registry.models.schema import Base

__all__ = [
    "RELEASES_LISTED", "Base", "Check", "Grant", "Identity", "Landing", "Lease", "Participant", "Pointer",
    "Recall", "RefusedBatch", "RefusedRequests", "Release", "Run", "Usage", "UsageDay",
]  # fmt: skip
