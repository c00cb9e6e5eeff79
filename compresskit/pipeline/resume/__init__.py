"""What a killed run leaves, and what decides that it may be used again."""
