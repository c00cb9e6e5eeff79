"""What layers read and give while calibration data runs through a model."""
