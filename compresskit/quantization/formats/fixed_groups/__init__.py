"""Formats whose groups have a fixed size: NF4, MXFP4, NVFP4, and the K-quants of GGUF."""
