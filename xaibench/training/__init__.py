"""Training: recipes from a benchmark, Lightning to carry them out, checkpoints that say what made them."""
