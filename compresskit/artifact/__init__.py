"""What is written and loaded again: manifest, weights, edits, probes; no pickle."""
