"""How much each channel, block or weight matters."""
