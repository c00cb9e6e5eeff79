"""Where and how long: the machine that figures come from, and times that decided once."""
