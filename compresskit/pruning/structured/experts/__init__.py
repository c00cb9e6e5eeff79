"""Experts of mixtures: whole ones that go, and their inner units in one order."""
