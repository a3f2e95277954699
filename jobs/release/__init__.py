"""Release: compares two versions, numbers, describes and certifies the new one, and verifies releases."""
