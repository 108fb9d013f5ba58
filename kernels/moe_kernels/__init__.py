"""MoE kernels in Triton and torch, bound by name to the decisions of moe_rules."""
