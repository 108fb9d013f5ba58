"""The function that transformers calls in the place of an experts module's forward."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ParamSpec

import torch

from moe_rules.integrations.transformers.layer import gemm_weights, stored, up_name
from moe_rules.integrations.transformers.packed import CONVERTING, SERVING, restore
from moe_rules.integrations.transformers.saying import say_fallback
from moe_rules.integrations.transformers.serving import Serving, serve

P = ParamSpec("P")
ExpertsForward = Callable[..., torch.Tensor]

_ALIGNMENT = 16
"""Rows of what torch's grouped GEMM multiplies take multiples of so many bytes."""

NO_BACKWARD = "gradients are asked for, and kernels here have no backward (torch.no_grad())"


def _when_traced(function: Callable[P, None]) -> Callable[P, None]:
    """``function``, which torch.compile calls when it traces, and does not trace."""
    constant: Callable[P, None] = torch.compiler.assume_constant_result(function)  # type: ignore[no-untyped-call]
    return constant


def experts_forward(interface: Any) -> ExpertsForward:
    """The implementation for transformers' ``interface`` of experts functions."""

    def moe_rules_experts(
        self: Any,
        hidden_states: torch.Tensor,
        top_k_index: torch.Tensor,
        top_k_weights: torch.Tensor,
    ) -> torch.Tensor:
        """Each token's weighted sum of its experts: [M, H] in the dtype of hidden_states.

        hidden_states: [M, H], floating. top_k_index: [M, topk] integers; from the module's number
        of experts on they are other ranks', and contribute nothing. top_k_weights: [M, topk].
        """
        # Before anything looks at parameters: torch.compile goes on with those that it has seen.
        if torch.is_grad_enabled() or getattr(self, SERVING, None) is None:
            _prepared(self, top_k_index.shape[-1], hidden_states.dtype, interface)
        w13, w2 = gemm_weights(self)
        if torch.is_grad_enabled() and (
            hidden_states.requires_grad or top_k_weights.requires_grad or w13.requires_grad
        ):
            name, own = _own(self, interface)
            _say_fallback(self, name, NO_BACKWARD)
            return own(self, hidden_states, top_k_index, top_k_weights)
        if not getattr(self, SERVING).serves(w13, w2):
            _prepared(self, top_k_index.shape[-1], hidden_states.dtype, interface)
            w13, w2 = gemm_weights(self)
        serving: Serving = getattr(self, SERVING)
        if serving.kernel is None:
            _, own = _own(self, interface)
            return own(self, hidden_states, top_k_index, top_k_weights)
        return _computed(self, serving, w13, w2, hidden_states, top_k_index, top_k_weights)

    return moe_rules_experts


@_when_traced
def _prepared(module: Any, top_k: int, dtype: torch.dtype, interface: Any) -> None:
    """Select and convert, unless that was done.

    Weights that need gradients are left, or become again, as they are. One thread does it, and
    others that come meanwhile find it done.
    """
    with CONVERTING:
        _prepared_by_one(module, top_k, dtype, interface)


def _prepared_by_one(module: Any, top_k: int, dtype: torch.dtype, interface: Any) -> None:
    serving: Serving | None = getattr(module, SERVING, None)
    if torch.is_grad_enabled() and stored(module, up_name(module)).requires_grad:
        restore(module)
    elif serving is None or not serving.serves(*gemm_weights(module)):
        serving = serve(module, top_k, dtype)
        module.__dict__[SERVING] = serving
        if serving.kernel is None:
            name, _ = _own(module, interface)
            say_fallback(module, name, serving.refusal)


_say_fallback = _when_traced(say_fallback)


def _own(module: Any, interface: Any) -> tuple[str, ExpertsForward]:
    """What transformers itself computes with, by name: grouped_mm, or eager where that raises."""
    w13, w2 = gemm_weights(module)
    (_, n13, hidden), (_, _, intermediate) = w13.shape, w2.shape
    sizes = (hidden, intermediate, n13) if module.is_transposed else (hidden, intermediate)
    unaligned = any(size * w13.element_size() % _ALIGNMENT for size in sizes)
    refused = unaligned or w13.dtype == torch.float64
    if refused or getattr(module, "activation_scheme", "dynamic") != "dynamic":
        return "eager", _eager(module)
    return "grouped_mm", interface.get_interface("grouped_mm", None)


def _eager(module: Any) -> ExpertsForward:
    """The forward that the module's class has in its source, below every decoration."""
    forward: ExpertsForward = inspect.unwrap(getattr(module, "_plain_class", type(module)).forward)
    return forward


def _computed(
    module: Any,
    serving: Serving,
    w13: torch.Tensor,
    w2: torch.Tensor,
    hidden_states: torch.Tensor,
    topk_ids: torch.Tensor,
    topk_weights: torch.Tensor,
) -> torch.Tensor:
    """The layer on the kernel, which takes tokens in the dtype of the weights."""
    assert serving.kernel is not None
    tokens, num_experts = hidden_states.to(serving.dtype), w13.shape[0]

    def run(x: torch.Tensor, weights: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        assert serving.kernel is not None
        return serving.kernel.apply(
            x,
            w13,
            w2,
            weights,
            ids,
            activation=serving.activation,
            global_num_experts=num_experts,
        )

    if not getattr(module, "has_post_expert_norm", False):
        return run(tokens, topk_weights, topk_ids).to(hidden_states.dtype)
    # Each pair a token of its own, for a norm stands between the experts and their sum.
    (num_tokens, top_k), (_, hidden) = topk_ids.shape, hidden_states.shape
    pair_ids = topk_ids.reshape(-1, 1)
    ones = torch.ones_like(pair_ids, dtype=torch.float32)
    norm: Callable[[torch.Tensor], torch.Tensor] = module.post_expert_norm
    pairs = norm(run(tokens.repeat_interleave(top_k, dim=0), ones, pair_ids))
    local = (topk_ids >= 0) & (topk_ids < num_experts)
    weights = torch.where(local, topk_weights, 0.0).float()
    output = (pairs.view(num_tokens, top_k, hidden).float() * weights[..., None]).sum(dim=1)
    return output.to(hidden_states.dtype)
