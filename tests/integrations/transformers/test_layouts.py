"""Every layout of experts that transformers has is computed by a kernel here, and as eager."""

import itertools
import logging

import pytest
import torch

pytest.importorskip("transformers")

from moe_kernels.quant_config import FusedMoEQuantConfig
from moe_kernels.reference import error_bound, relative_error
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from moe_rules.integrations.transformers import NAME
from moe_rules.integrations.transformers.packed import SERVING
from tests.integrations.transformers.modules import expected, experts, routing

BOOL = (False, True)


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


def check(module, num_tokens=17, sentinels=False, dtype=torch.float32, top_k=2):
    """The module gives what its source does; returns what serves it."""
    hidden = module.down_proj.shape[2 if module.is_transposed else 1]
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(num_tokens, hidden, generator=generator).to(dtype)
    index, weights = routing(num_tokens, module.num_experts, top_k, sentinels=sentinels)
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("has_gate", "is_transposed", "has_bias"), list(itertools.product(BOOL, repeat=3))
)
def test_layouts(has_gate, is_transposed, has_bias, dtype):
    module = experts(has_gate=has_gate, is_transposed=is_transposed, has_bias=has_bias, dtype=dtype)
    for sentinels in BOOL:
        check(module, sentinels=sentinels, dtype=dtype)


@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_pytorch_tanh", "relu2"])
@pytest.mark.parametrize("has_gate", BOOL)
def test_activations(activation, has_gate):
    serving = check(experts(activation=activation, has_gate=has_gate))
    name = activation.replace("_pytorch", "")
    assert serving.activation == (name if has_gate else f"{name}_no_mul")


@pytest.mark.parametrize("activation", list(GATES))
@pytest.mark.parametrize("is_transposed", BOOL)
def test_gates_of_their_own(activation, is_transposed):
    module = experts(is_transposed=is_transposed, has_bias=True, **GATES[activation])
    assert check(module).activation == activation


def test_gates_without_interleaving():
    def gate(self, x):
        return gpt_oss_gate(self, torch.stack(x.chunk(2, dim=-1), dim=-1).flatten(-2))

    module = experts(gate=gate, swiglu_limit=0.7, limit=0.7, alpha=1.6)
    assert check(module).activation == "swigluoai_uninterleave"


@pytest.mark.parametrize("is_transposed", BOOL)
def test_rows_of_odd_sizes(is_transposed):
    check(experts(hidden=30, intermediate=22, is_transposed=is_transposed))
    check(
        experts(hidden=30, intermediate=22, is_transposed=is_transposed, dtype=torch.bfloat16),
        dtype=torch.bfloat16,
    )


def test_no_tokens():
    module = experts()
    with torch.no_grad():
        output = module(torch.empty(0, 32), *routing(0, 6))
    assert output.shape == (0, 32)
    check(module)


def test_a_norm_after_each_expert():
    module = experts(norm=torch.nn.RMSNorm(32))
    check(module)
    check(module, sentinels=True)


def test_tokens_in_another_dtype_than_weights():
    module = experts(dtype=torch.bfloat16)
    x, (index, weights) = torch.randn(5, 32), routing(5, 6)
    with torch.no_grad():
        output = module(x, index, weights)
    assert output.dtype == torch.float32
    assert relative_error(output, expected(module, x, index, weights)) <= 2e-2


# What is not served ----------------------------------------------------------------------------


def own(module, x, index, weights):
    """What transformers' own implementation gives."""
    return ALL_EXPERTS_FUNCTIONS["grouped_mm"](module, x, index, weights)


def test_a_selection_is_said_once_per_kind(log):
    for module in (experts(seed=1), experts(seed=2)):
        check(module)
    assert [record.getMessage() for record in log.records] == [
        "moe_rules: unquantized layer (6 experts of 32x48 silu): CPU / CPUUnquantizedExperts, "
        "because first in the order, and it serves the layer (transformers/cpu.yaml:9), "
        "on cpu in fp32"
    ]


def test_an_unknown_gate_is_said_and_transformers_computes_it(log):
    def gate(self, x):
        a, b = x.chunk(2, dim=-1)
        return torch.sin(a) * b

    x, (index, weights) = torch.randn(9, 32), routing(9, 6)
    with torch.no_grad():
        for seed in (1, 2):
            module = experts(gate=gate, seed=seed)
            output = module(x, index, weights)
            torch.testing.assert_close(output, own(module, x, index, weights))
    assert [record.getMessage() for record in log.records] == [
        "moe_rules: Experts: transformers' grouped_mm computes it, because no activation here "
        "computes what its _apply_gate does"
    ]
    assert log.records[0].levelno == logging.WARNING


def test_where_grouped_mm_would_raise_eager_computes(log):
    module = experts(hidden=30, gate=lambda self, x: torch.sin(x[..., ::2]) + x[..., 1::2])
    x, (index, weights) = torch.randn(9, 30), routing(9, 6)
    with torch.no_grad():
        output = module(x, index, weights)
    torch.testing.assert_close(output, expected(module, x, index, weights).float())
    assert "transformers' eager computes it" in log.text


def test_gradients_are_transformers_own(log):
    module = experts().requires_grad_(True)
    check(module)  # without gradients it is served, its weights packed
    x, (index, weights) = torch.randn(9, 32, requires_grad=True), routing(9, 6)
    for _ in range(2):
        module(x, index, weights).sum().backward()
    wanted = experts().requires_grad_(True)
    wanted.config._experts_implementation = "eager"
    y = x.detach().requires_grad_()
    for _ in range(2):
        wanted(y, index, weights).sum().backward()
    torch.testing.assert_close(module.down_proj.grad, wanted.down_proj.grad)
    torch.testing.assert_close(x.grad, y.grad)
    assert log.text.count("kernels here have no backward") == 1


def test_a_request_that_cannot_run_here_is_said(log, monkeypatch):
    monkeypatch.setenv("MOE_RULES_BACKEND", "unquantized=triton")
    x, (index, weights) = torch.randn(9, 32), routing(9, 6)
    module = experts()
    with torch.no_grad():
        output = module(x, index, weights)
    torch.testing.assert_close(output, own(module, x, index, weights))
    assert "transformers' grouped_mm computes it, because" in log.text


def test_weights_on_the_meta_device_are_left_to_transformers(log):
    module = experts().to("meta")
    x, (index, weights) = torch.randn(9, 32, device="meta"), routing(9, 6)
    with torch.no_grad(), pytest.raises(Exception):  # noqa: B017, PT011 - theirs
        module(x, index, weights)
    assert "its weights are on the meta device" in log.text


def test_the_name():
    assert NAME == "moe_rules"
    assert NAME in ALL_EXPERTS_FUNCTIONS
