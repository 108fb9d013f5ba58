"""Whole-layer benchmarks of MoE kernels: ``python -m moe_kernels.benchmark``."""
