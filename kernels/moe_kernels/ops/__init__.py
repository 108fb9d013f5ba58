"""Triton operations, one per file: plain functions over tensors that launch kernels."""
