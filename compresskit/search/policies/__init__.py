"""How a search picks its candidates."""
