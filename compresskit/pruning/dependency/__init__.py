"""Which channels move together, found by running the model once."""
