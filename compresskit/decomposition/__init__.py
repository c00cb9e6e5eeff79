"""Layers replaced by chains of low-rank factors."""
