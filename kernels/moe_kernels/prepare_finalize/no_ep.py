"""Prepare and finalize where no token leaves its rank."""

from __future__ import annotations

import torch

from moe_kernels.modular_kernel import FusedMoEExperts, FusedMoEPrepareAndFinalize, PrepareResult


def weigh_input(hidden_states: torch.Tensor, topk_weights: torch.Tensor) -> torch.Tensor:
    """Tokens [M, H] times their weights [M, 1].

    Raises ValueError for more than one expert per token: a token has one input, and its weights
    differ.
    """
    if topk_weights.shape[1] != 1:
        raise ValueError(f"apply_router_weight_on_input needs topk 1, got {topk_weights.shape[1]}")
    return hidden_states * topk_weights.to(hidden_states.dtype)


class MoEPrepareAndFinalizeNoEP(FusedMoEPrepareAndFinalize):
    """Every rank has all tokens; experts of other ranks are skipped (``expert_map``).

    Summing the ranks' outputs, where there are several, is the caller's all-reduce. vLLM's
    ``MoEPrepareAndFinalizeNoDPEPModular``.
    """

    def prepare(
        self,
        hidden_states: torch.Tensor,
        topk_weights: torch.Tensor,
        topk_ids: torch.Tensor,
        experts: FusedMoEExperts,
        apply_router_weight_on_input: bool,
        num_local_experts: int,
        expert_map: torch.Tensor | None,
    ) -> PrepareResult:
        """Weigh the tokens if asked, and quantize them as ``experts`` ask.

        Raises ValueError for ``apply_router_weight_on_input`` with more than one expert per token.
        """
        if apply_router_weight_on_input:
            hidden_states = weigh_input(hidden_states, topk_weights)
        quantized, scale = experts.quantize_input(hidden_states)
        return PrepareResult(quantized, scale, topk_weights, topk_ids)

    def finalize(
        self,
        expert_output: torch.Tensor,
        prepared: PrepareResult,
        apply_router_weight_on_input: bool,
    ) -> torch.Tensor:
        """``expert_output`` as it is."""
        return expert_output
