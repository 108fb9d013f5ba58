"""Compares our decisions with decisions recorded from the reference."""
