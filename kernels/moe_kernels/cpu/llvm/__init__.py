"""Programs in LLVM's own language that multiply stored weights, compiled for the CPU at hand.

Only :mod:`moe_kernels.cpu.compiled` imports these modules, where llvmlite is installed.
"""
