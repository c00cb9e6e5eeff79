"""The commands: click only, options derived."""
