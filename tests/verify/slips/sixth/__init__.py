"""By a sixth author, in the same form."""
