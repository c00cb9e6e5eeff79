"""How ids of channels move through each kind of operation."""
