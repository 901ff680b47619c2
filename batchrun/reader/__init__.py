"""Input files into records: one survey of everything, then stretches of records in input order."""
