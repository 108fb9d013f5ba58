"""Searches tilings of named layers where the command line's packages are not installed."""

from moe_kernels.benchmark.tune.session import main

if __name__ == "__main__":  # not in the processes that compile
    main()
