"""What a manifest may say, as typed records. Imports no torch."""
