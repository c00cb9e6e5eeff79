"""Readers of tables: columns of CSV and JSON lines, and arrays of NumPy archives."""
