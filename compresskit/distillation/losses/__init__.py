"""Distillation losses, one file a family: a pure function on tensors each, and the term that training uses."""
