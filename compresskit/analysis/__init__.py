"""What a model does and costs, found once for all techniques: statistics, sensitivities, measurements, allocation."""
