"""Metrics, one file a family: rows of METRICS."""
