"""MACs, bytes, memory and latency, measured on the thing itself."""
