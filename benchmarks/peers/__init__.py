"""Adapters of kernels that others publish, one module each."""
