"""Searching for whole networks that the model teaches."""
