"""The processes that share a layer: what they agree on, what they send, and who is missing."""
