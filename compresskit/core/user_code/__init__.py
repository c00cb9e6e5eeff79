"""Code, modules and functions that the user named: imported, called, and blamed by name."""
