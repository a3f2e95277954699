"""The buyer's door: a Delta Sharing server (open protocol, read side) over the exchange's released tables."""
