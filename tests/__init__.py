"""The proof that the exchange does what it says."""
