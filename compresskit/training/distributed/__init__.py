"""Training by several processes: one step with shared gradients (DDP), and weights held in parts (FSDP)."""
