"""Cutting whole channels and blocks, and proving each cut."""
