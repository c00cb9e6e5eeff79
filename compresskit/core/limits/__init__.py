"""Files and sizes that a stranger may have chosen: read within bounds, or refused in one line."""
