"""Land: publishers' bytes come in, by connectors, and are kept as received."""

from jobs.land.containers import Member, Readable, members

__all__ = ["Member", "Readable", "members"]
