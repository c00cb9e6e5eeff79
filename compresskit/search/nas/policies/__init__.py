"""How an architecture search makes its networks."""
