"""How many units each group keeps, and which groups compete."""
