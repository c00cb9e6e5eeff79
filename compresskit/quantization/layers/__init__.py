"""Quantized layers: their geometry as data, their buffers, and how a model's layers become them."""
