"""What a model takes in its runtime: time against float in the same one, start in a fresh process, memory."""
