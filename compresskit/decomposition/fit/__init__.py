"""Fitting factors to weights, to outputs, or through the activation that follows."""
