"""Where a wrong rule is wrong, and what is wrong there: `diagnoses` begins; nothing here decides a verdict."""
