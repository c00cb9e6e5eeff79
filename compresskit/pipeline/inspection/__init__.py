"""Commands that look at models, runs and this machine, and change nothing."""
