"""Experts implementations under vLLM's class names; :mod:`moe_kernels.registry` finds them."""
