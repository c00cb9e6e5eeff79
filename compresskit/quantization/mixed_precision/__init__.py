"""Bits or number types for each layer, under a budget."""
