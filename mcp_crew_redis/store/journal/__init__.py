"""What was accepted while Redis was away, until it stands in Redis."""
