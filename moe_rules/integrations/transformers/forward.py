"""The function that transformers calls in the place of an experts module's forward."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

from moe_rules.integrations.transformers.front import plain_class
from moe_rules.integrations.transformers.layer import gemm_weights
from moe_rules.integrations.transformers.packed import CONVERTING, SERVING, Packable, restore
from moe_rules.integrations.transformers.saying import say_fallback
from moe_rules.integrations.transformers.serving import Serving, serve

ExpertsForward = Callable[..., torch.Tensor]

_ALIGNMENT = 16
"""Rows of what torch's grouped GEMM multiplies take multiples of so many bytes."""

NO_BACKWARD = "gradients are asked for, and kernels here have no backward (torch.no_grad())"


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
        # It may trace twice, and has to come by the same way.
        watched = torch.is_grad_enabled() or torch.compiler.is_compiling()
        if watched or _serving(self) is None:
            _prepare(self, top_k_index.shape[-1], hidden_states.dtype)
        w13, w2 = gemm_weights(self)
        if torch.is_grad_enabled() and (
            hidden_states.requires_grad or top_k_weights.requires_grad or _is_trained(self)
        ):
            _say_fallback(type(self).__name__, _own_name(self), NO_BACKWARD)
            return _own(self, interface)(self, hidden_states, top_k_index, top_k_weights)
        serving: Serving | None = getattr(self, SERVING, None)
        if serving is None or not serving.serves(w13, w2):
            _prepare(self, top_k_index.shape[-1], hidden_states.dtype)
            w13, w2 = gemm_weights(self)
            serving = getattr(self, SERVING, None)
        if serving is None:  # meanwhile another thread read weights, and so gave them back
            return moe_rules_experts(self, hidden_states, top_k_index, top_k_weights)
        if serving.kernel is None:
            return _own(self, interface)(self, hidden_states, top_k_index, top_k_weights)
        return _computed(self, serving, w13, w2, hidden_states, top_k_index, top_k_weights)

    return moe_rules_experts


def _prepare(module: Any, top_k: int, dtype: torch.dtype) -> None:
    """Select and convert, unless that was done; under torch.compile when it traces."""
    if isinstance(module, Packable):
        module.when_traced(_prepare_now, top_k, dtype)
    else:
        _prepare_traced(module, top_k, dtype)


def _prepare_now(module: Any, top_k: int, dtype: torch.dtype) -> None:
    """Select and convert, unless that was done.

    Weights that need gradients are left, or become again, as they are. One thread does it, and
    others that come meanwhile find it done.
    """
    with CONVERTING:
        serving = _serving(module)
        if torch.is_grad_enabled() and _is_trained(module):
            restore(module)
        elif serving is None or not serving.serves(*gemm_weights(module)):
            serving = serve(module, top_k, dtype)
            module.__dict__[SERVING] = serving
            if serving.kernel is None:
                say_fallback(type(module).__name__, _own_name(module), serving.refusal)


def _serving(module: Any) -> Serving | None:
    """What serves ``module``, if it was made of the biases and scales that are there."""
    serving: Serving | None = getattr(module, SERVING, None)
    return serving if serving is not None and serving.is_of(module) else None


def _is_trained(module: Any) -> bool:
    """Whether gradients are asked of its weights, or of what is beside them."""
    tensors = *gemm_weights(module), *module._parameters.values()
    return any(x is not None and x.requires_grad for x in tensors)


_prepare_traced = torch.compiler.assume_constant_result(_prepare_now)  # type: ignore[no-untyped-call]
_say_fallback = torch.compiler.assume_constant_result(say_fallback)  # type: ignore[no-untyped-call]


def _own_name(module: Any) -> str:
    """What transformers itself computes with: grouped_mm, or eager where that raises."""
    w13, w2 = gemm_weights(module)
    (_, n13, hidden), (_, _, intermediate) = w13.shape, w2.shape
    sizes = (hidden, intermediate, n13) if module.is_transposed else (hidden, intermediate)
    unaligned = any(size * w13.element_size() % _ALIGNMENT for size in sizes)
    refused = unaligned or w13.dtype == torch.float64
    refused = refused or getattr(module, "activation_scheme", "dynamic") != "dynamic"
    return "eager" if refused else "grouped_mm"


def _own(module: Any, interface: Any) -> ExpertsForward:
    """The function of that name."""
    name = _own_name(module)
    own: ExpertsForward = _eager(module) if name == "eager" else interface.get_interface(name, None)
    return own


def _eager(module: Any) -> ExpertsForward:
    """The forward that the module's class has in its source, below every decoration."""
    forward: ExpertsForward = inspect.unwrap(plain_class(module).forward)
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
