"""The Python API: one function a command, with the same options. What is public stands in `compresskit` itself."""
