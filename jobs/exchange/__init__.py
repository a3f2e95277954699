"""The exchange's participants, grants and usage."""
