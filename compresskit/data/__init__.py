"""From a data string or object to batches that a model takes."""
