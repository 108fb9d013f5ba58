"""Oracles with vLLM's names and methods, over the tables."""
