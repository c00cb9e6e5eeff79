"""What a training run keeps: its state on disk, its counters, and its weights (averaged, best)."""
