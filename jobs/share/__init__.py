"""The buyer's door: a Delta Sharing server (open protocol, read side) over the exchange's released tables."""

# Under which path the server answers, and with which every profile's endpoint ends.
PREFIX = "/delta-sharing"
