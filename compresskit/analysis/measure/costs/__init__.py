"""How each cost is found: counted from the work that a choice leaves, modelled from it, or measured."""
