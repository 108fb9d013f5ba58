"""Runs the benchmark where the command line's packages are not installed."""

from moe_kernels.benchmark.runner import main

main()
