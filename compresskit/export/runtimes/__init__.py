"""Runtimes that an exported model runs in, one a file."""
