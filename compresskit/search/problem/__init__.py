"""A search problem: places, exact costs, scores that are remembered, workers."""
