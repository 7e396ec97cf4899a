"""By a third author, in the same form."""
