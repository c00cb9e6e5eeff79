"""Which activations are quantized, and their ranges."""
