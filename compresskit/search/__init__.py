"""Each layer's share found under budgets, for any technique or several."""
