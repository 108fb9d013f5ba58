"""What the rules say of all deployments at once: decision diagrams over classes of facts."""
