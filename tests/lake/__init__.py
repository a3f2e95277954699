"""Tables and steps, on both engines."""
