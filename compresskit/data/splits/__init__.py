"""Splits: examples by index or as a stream, in memory, in files, or behind code of the user's."""
