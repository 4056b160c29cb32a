"""Studies: many evaluations and what is said of them."""
