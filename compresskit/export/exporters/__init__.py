"""Writing a model as a graph."""
