"""Whole-layer benchmarks of MoE kernels: ``python -m benchmarks --help``."""
