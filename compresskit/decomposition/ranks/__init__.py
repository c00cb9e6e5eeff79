"""Candidates for each layer, and the rule that picks one."""
