"""Number formats: codes, scales and packed buffers, and the layers that compute with them."""
