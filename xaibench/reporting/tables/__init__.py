"""Tables of runs and comparisons, for the terminal and for papers."""
