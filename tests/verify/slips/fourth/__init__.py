"""By a fourth author, in the same form."""
