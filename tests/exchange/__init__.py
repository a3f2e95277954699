"""Records, releases and the sharing server, without an engine."""
