"""Finding layers, and putting factors in their place."""
