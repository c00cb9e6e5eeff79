"""Sharing out budgets: one choice for each place, least total loss within what may be spent."""
