"""By a fifth author, in the same form."""
