"""Land: connectors fetch publishers' bytes, which are kept as received."""

from jobs.land.containers import Member, Readable, members, refuse_document

__all__ = ["Member", "Readable", "members", "refuse_document"]
