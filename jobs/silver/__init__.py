"""Silver: rows become typed and keyed, revisions are kept, and what cannot be typed goes to quarantine."""
