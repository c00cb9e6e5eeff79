"""What is found out before work, and what must hold after it."""
