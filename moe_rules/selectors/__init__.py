"""Selecting on one machine: rules specialised to it, compiled, answers remembered."""
