"""Readers: one file for each form of data string that reads files or packages."""
