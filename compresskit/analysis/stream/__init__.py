"""What flows between the layers of a transformer, and turning it."""
