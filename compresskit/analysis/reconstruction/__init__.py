"""Reconstruction: a changed model's weights are tuned, block by block and without labels, to the outputs it had."""
