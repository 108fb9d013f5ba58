"""Ways to bring tokens to the experts and their results back, one per file."""
