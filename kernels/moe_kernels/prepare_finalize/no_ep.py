"""Prepare and finalize where no token leaves its rank."""

from __future__ import annotations

import torch

from moe_kernels.modular_kernel import FusedMoEExperts, FusedMoEPrepareAndFinalize, PrepareResult


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
    ) -> PrepareResult:
        """Weigh the tokens if asked, and quantize them as ``experts`` ask.

        Raises ValueError for ``apply_router_weight_on_input`` with more than one expert per
        token: a token has one input, and its weights differ.
        """
        if apply_router_weight_on_input:
            if topk_ids.shape[1] != 1:
                raise ValueError(
                    f"apply_router_weight_on_input needs topk 1, got {topk_ids.shape[1]}"
                )
            hidden_states = hidden_states * topk_weights.to(hidden_states.dtype)
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
