"""What follows a cut or prepares it: refits, statistics, regularized training."""
