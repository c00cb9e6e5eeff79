"""Walking a model block by block: its blocks, the activations between them, and one block's step."""
