"""``BatchedTritonExperts``: Triton experts on tokens that are grouped by expert already."""

from __future__ import annotations

import torch

from moe_kernels.experts.triton_experts import TritonExperts
from moe_kernels.modular_kernel import FusedMoEActivationFormat, PrepareResult
from moe_kernels.quant_config import FusedMoEQuantConfig
from moe_kernels.routing import Routing
from moe_rules.vocabulary.layer import FusedMoEConfig


class BatchedTritonExperts(TritonExperts):
    """Unquantized and FP8 experts in the batched format.

    Every row of hidden_states [E, max_tokens, H] is a token of one expert: the standard
    computation with E * max_tokens tokens, topk 1, and no expert for rows past
    ``expert_num_tokens``. Schemes as :class:`TritonExperts`, without INT8. A dynamic per-tensor
    scale is one over all experts. vLLM's ``fused_batched_moe.py``.
    """

    activation_format = FusedMoEActivationFormat.BatchedExperts

    def __init__(self, moe_config: FusedMoEConfig, quant_config: FusedMoEQuantConfig) -> None:
        if quant_config.weight_format not in (None, "fp8"):
            raise ValueError(
                "BatchedTritonExperts executes unquantized or FP8 weights, got "
                f"{quant_config.weight_key}"
            )
        super().__init__(moe_config, quant_config)

    def apply(
        self, prepared: PrepareResult, w13: torch.Tensor, w2: torch.Tensor, activation: str
    ) -> torch.Tensor:
        """See :meth:`moe_kernels.modular_kernel.FusedMoEExperts.apply`; the routing is not read.

        hidden_states_scale: [1], or [E, max_tokens, 1 or groups]. Returns [E, max_tokens, H]; zeros
        in rows past ``expert_num_tokens``. Raises ValueError without that, and for tensors that
        do not fit together.
        """
        hidden_states, scale = prepared.hidden_states, prepared.hidden_states_scale
        expert_num_tokens = prepared.expert_num_tokens
        if expert_num_tokens is None or hidden_states.dim() != 3:
            raise ValueError(
                "BatchedTritonExperts needs hidden_states [E, max_tokens, H] and "
                f"expert_num_tokens, got {list(hidden_states.shape)} and {expert_num_tokens}"
            )
        num_experts, max_tokens, hidden = hidden_states.shape
        if num_experts != w13.shape[0] or tuple(expert_num_tokens.shape) != (num_experts,):
            raise ValueError(
                f"w13 has {w13.shape[0]} experts, hidden_states {num_experts} and "
                f"expert_num_tokens {list(expert_num_tokens.shape)}"
            )
        device = hidden_states.device
        experts = torch.arange(num_experts, dtype=torch.int32, device=device)[:, None]
        rows = torch.arange(max_tokens, dtype=torch.int32, device=device)[None]
        ids = torch.where(rows < expert_num_tokens[:, None], experts, -1).reshape(-1, 1)
        flat = PrepareResult(
            hidden_states.reshape(-1, hidden),
            scale if scale is None or scale.dim() < 3 else scale.reshape(-1, scale.shape[-1]),
            None,  # weights are applied when the results are combined
            Routing(ids, num_experts, None),
        )
        return super().apply(flat, w13, w2, activation).view(num_experts, max_tokens, hidden)
