"""Searches the fastest tilings and kernels of layers: ``python -m moe_kernels.benchmark.tune``."""
