"""By a ninth author, in the same form."""
