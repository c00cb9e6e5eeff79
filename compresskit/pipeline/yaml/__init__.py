"""YAML that a stranger may have written, with the line of every key."""
