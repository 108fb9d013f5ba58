"""An experts module of every layout, with random weights, and what it computes in float64."""

import copy
from types import SimpleNamespace

import torch
from moe_kernels.quant_config import FusedMoEQuantConfig
from moe_kernels.reference import error_bound, relative_error
from torch import nn
from transformers.activations import ACT2FN
from transformers.integrations.moe import use_experts_implementation

from moe_rules.integrations.transformers.packed import SERVING


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


def check(module, sentinels=False, dtype=torch.float32, num_tokens=17, top_k=2):
    """The module gives what its source does; returns what serves it."""
    hidden = module.down_proj.shape[2 if module.is_transposed else 1]
    device, generator = module.down_proj.device, torch.Generator().manual_seed(1)
    x = torch.randn(num_tokens, hidden, generator=generator).to(device, dtype)
    chosen = routing(num_tokens, module.num_experts, top_k, sentinels=sentinels)
    index, weights = (each.to(device) for each in chosen)
    wanted = expected(module, x, index, weights).detach()
    if sentinels:  # in the experts' way: a token that only other ranks serve may hold anything
        index[0], weights[0] = module.num_experts, torch.nan
        x[0], wanted[0] = torch.inf, 0.0
    with torch.no_grad():
        output = module(x, index, weights)
    assert output.dtype == dtype
    bound = error_bound(dtype, FusedMoEQuantConfig(), True)
    assert relative_error(output, wanted) <= bound
    serving = getattr(module, SERVING)
    assert serving.kernel is not None
    return serving


def gpt_oss_gate(self, x):
    gate, up = x[..., ::2].clamp(max=self.limit), x[..., 1::2].clamp(-self.limit, self.limit)
    return (up + 1) * gate * torch.sigmoid(gate * self.alpha)


def clamped_gate(self, x):
    gate, up = x.chunk(2, dim=-1)
    return self.act_fn(gate.clamp(max=self.limit)) * up.clamp(-self.limit, self.limit)


def softcapped_gate(self, x):
    gate, up = x.chunk(2, dim=-1)
    capped = torch.tanh(gate / self.gate_softcap) * self.gate_softcap * torch.sigmoid(gate)
    return capped * torch.tanh(up / self.up_softcap) * self.up_softcap


def step_gate(self, x):
    gate, up = x.chunk(2, dim=-1)
    return self.act_fn(gate).clamp(max=self.limit) * up.clamp(-self.limit, self.limit)


GATES = {
    "swigluoai": {"gate": gpt_oss_gate, "limit": 0.7, "alpha": 1.6},
    "silu": {"gate": clamped_gate, "limit": 0.5},
    "situ": {"gate": softcapped_gate, "gate_softcap": 0.8, "up_softcap": 0.6},
    "swiglustep": {"gate": step_gate, "limit": 0.4},
}
