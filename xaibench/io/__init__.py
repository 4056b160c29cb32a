"""Files: written whole or not at all, read within limits, kept by what made them."""
