"""Folders and files on the disk: written whole or not at all, owned, locked."""
