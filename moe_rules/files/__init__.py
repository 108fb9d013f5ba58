"""Files: packaged ones, YAML with the place of every key, and what is wrong with them."""
