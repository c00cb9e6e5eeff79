"""Which layer of the student learns from which layer of the teacher."""
