"""A kernel class of somebody else's, as rule files bind one."""

from __future__ import annotations

from vllm.model_executor.layers.fused_moe.experts.triton_moe import TritonExperts


class Experts(TritonExperts):
    """A class that vLLM does not know."""
