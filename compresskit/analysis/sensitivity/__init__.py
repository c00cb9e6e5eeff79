"""How much a model depends on its parts."""
