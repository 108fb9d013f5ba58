"""An experts module of every layout, with random weights, and what it computes in float64."""

import copy
from types import SimpleNamespace

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.integrations.moe import use_experts_implementation


def experts(
    num_experts=6,
    hidden=32,
    intermediate=48,
    *,
    has_gate=True,
    is_transposed=False,
    has_bias=False,
    activation="silu",
    gate=None,
    norm=None,
    dtype=torch.float32,
    seed=0,
    **constants,
):
    """A module as models of transformers have them, set to "moe_rules".

    ``gate``: its _apply_gate, given its constants; ``norm``: what follows each expert.
    """

    class Experts(nn.Module):
        def __init__(self, config):
            super().__init__()
            self.num_experts = num_experts
            rows = 2 * intermediate if has_gate else intermediate
            self.up = "gate_up_proj" if has_gate else "up_proj"
            for name, shape in ((self.up, (rows, hidden)), ("down_proj", (hidden, intermediate))):
                stored = shape[::-1] if is_transposed else shape
                weight = torch.randn(num_experts, *stored, generator=generator) * shape[1] ** -0.5
                self.register_parameter(name, nn.Parameter(weight.to(dtype)))
                if has_bias:
                    bias = torch.randn(num_experts, shape[0], generator=generator)
                    self.register_parameter(f"{name}_bias", nn.Parameter(bias.to(dtype)))
            self.act_fn = ACT2FN[activation]
            for name, value in constants.items():
                setattr(self, name, value)
            if norm is not None:
                self.post_expert_norm = norm

        def forward(self, hidden_states, top_k_index, top_k_weights):
            output = torch.zeros_like(hidden_states)
            for expert in range(num_experts):
                tokens, slots = torch.where(top_k_index == expert)
                if not len(tokens):  # a row that nobody reads may hold anything
                    continue
                y = self.linear(self.up, hidden_states[tokens], expert)
                y = self._apply_gate(y) if has_gate else self.act_fn(y)
                y = self.linear("down_proj", y, expert)
                y = y if norm is None else self.post_expert_norm(y)
                y = y * top_k_weights[tokens, slots, None]
                output.index_add_(0, tokens, y.to(output.dtype))
            return output

        def linear(self, name, x, expert):
            weight = getattr(self, name)[expert]
            bias = getattr(self, f"{name}_bias")[expert] if has_bias else None
            return nn.functional.linear(x, weight.T if is_transposed else weight, bias)

    if gate is not None:
        Experts._apply_gate = gate
    generator = torch.Generator().manual_seed(seed)
    decorate = use_experts_implementation(
        is_transposed=is_transposed, has_bias=has_bias, has_gate=has_gate
    )
    config = SimpleNamespace(_experts_implementation="moe_rules")
    module = decorate(Experts)(config).requires_grad_(False)
    module.has_post_expert_norm = norm is not None
    return module


def routing(num_tokens, num_experts, top_k=2, *, sentinels=False, seed=0):
    """top_k_index and float32 top_k_weights, [num_tokens, top_k]."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(num_tokens, num_experts, generator=generator)
    weights, index = logits.softmax(-1).topk(top_k)
    if sentinels:
        index[::2, 0] = num_experts
        weights = weights.masked_fill(index == num_experts, 0.0)
    return index, weights


def expected(module, hidden_states, index, weights):
    """What the module's own source computes, in float64."""
    wide = copy.deepcopy(module).double()
    wide._forward_hooks.clear()
    wide.config = SimpleNamespace(_experts_implementation="eager")
    return wide(hidden_states.double(), index, weights.double())
