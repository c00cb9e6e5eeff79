"""Kinds of decomposition: what a weight is factored into, and the layers that hold the factors."""
