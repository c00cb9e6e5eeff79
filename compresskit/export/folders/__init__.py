"""Folders that other libraries load: written under their names, proven in a fresh process."""
