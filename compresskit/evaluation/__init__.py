"""Losses against targets, and metrics with their intervals."""
