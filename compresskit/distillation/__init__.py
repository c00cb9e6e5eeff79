"""Students that learn from a teacher."""
