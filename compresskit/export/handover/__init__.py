"""What goes along with a file that leaves: its description, its size, a script that runs it."""
