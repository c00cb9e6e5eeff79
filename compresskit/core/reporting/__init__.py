"""What people and machines read of a run: tables, pages, plots, results on stdout, progress on stderr."""
