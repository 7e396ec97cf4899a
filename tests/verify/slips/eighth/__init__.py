"""By an eighth author, in the same form."""
