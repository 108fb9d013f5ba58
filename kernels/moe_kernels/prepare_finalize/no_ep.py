"""Prepare and finalize where no token leaves its rank."""

from __future__ import annotations

import torch

from moe_kernels.modular_kernel import FusedMoEExperts, FusedMoEPrepareAndFinalize, PrepareResult
from moe_kernels.routing import Routing


class MoEPrepareAndFinalizeNoEP(FusedMoEPrepareAndFinalize):
    """Every rank has all tokens; experts of other ranks are skipped (``expert_map``).

    Summing the ranks' outputs, where there are several, is the caller's all-reduce. vLLM's
    ``MoEPrepareAndFinalizeNoDPEPModular``.
    """

    def prepare(
        self,
        hidden_states: torch.Tensor,
        topk_weights: torch.Tensor | None,
        routing: Routing,
        experts: FusedMoEExperts,
        num_local_experts: int,
    ) -> PrepareResult:
        """Quantize the tokens as ``experts`` ask, unless they do it themselves."""
        if experts.takes_unquantized:
            return PrepareResult(hidden_states, None, topk_weights, routing)
        quantized, scale = experts.quantize_input(hidden_states, routing)
        return PrepareResult(quantized, scale, topk_weights, routing)

    def finalize(self, expert_output: torch.Tensor, prepared: PrepareResult) -> torch.Tensor:
        """``expert_output`` as it is."""
        return expert_output
