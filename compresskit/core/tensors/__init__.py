"""Modules and tensors whatever they compute: copies, number types, dotted names, random states."""
