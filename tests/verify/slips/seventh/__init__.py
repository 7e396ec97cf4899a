"""By a seventh author, in the same form."""
