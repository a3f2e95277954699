"""Silver: rows become typed and keyed, revisions are kept, and untypable rows go to quarantine."""
