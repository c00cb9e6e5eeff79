"""Recipes: validated, checked before work, run, resumed, guarded."""
