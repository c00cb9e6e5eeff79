"""The one training loop, and what steps are handed and give back."""
