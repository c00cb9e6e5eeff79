"""Losses against targets, one file a family."""
