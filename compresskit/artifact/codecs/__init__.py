"""How one tensor is laid out in the weights file."""
