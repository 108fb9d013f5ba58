"""Every layout of experts that transformers has is computed by a kernel here, and as eager."""

import itertools
import logging
import os
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.func import functional_call

pytest.importorskip("transformers")

from moe_kernels.reference import relative_error
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, use_experts_implementation

from moe_rules.integrations.transformers import NAME
from moe_rules.integrations.transformers.packed import SERVING
from tests.integrations.transformers.long import long
from tests.integrations.transformers.modules import (
    GATES,
    check,
    expected,
    experts,
    gpt_oss_gate,
    routing,
)

BOOL = (False, True)


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
    (said,) = log.messages
    assert re.fullmatch(
        r"moe_rules: unquantized layer \(6 experts of 32x48 silu\): CPU / CPUUnquantizedExperts, "
        r"because first in the order, and it serves the layer \(transformers/cpu.yaml:\d+\), "
        r"on cpu in fp32",
        said,
    )


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


@long
@pytest.mark.parametrize("requires_grad", BOOL)
def test_what_transformers_computes_is_compiled_without_breaks(requires_grad):
    module = experts(dtype=torch.bfloat16, activation="tanh").requires_grad_(requires_grad)
    x, (index, weights) = torch.randn(9, 32).to(torch.bfloat16), routing(9, 6)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    output = compiled(x, index, weights)
    torch.testing.assert_close(output, own(module, x, index, weights))
    assert output.requires_grad == requires_grad


def check_by_eager(module, hidden, log, dtype=torch.float32):
    """Transformers' eager computes ``module``, and the log says so."""
    x, (index, weights) = torch.randn(9, hidden, dtype=dtype), routing(9, 6)
    with torch.no_grad():
        output = module(x, index, weights)
    torch.testing.assert_close(output, expected(module, x, index, weights).to(dtype))
    assert "transformers' eager computes it" in log.text


def without_grouped_mm():
    """Experts that it raises for, with a gate that no kernel has."""
    return experts(hidden=30, gate=lambda self, x: torch.sin(x[..., ::2]) + x[..., 1::2])


def test_where_grouped_mm_would_raise_eager_computes(log):
    check_by_eager(without_grouped_mm(), 30, log)


def test_models_in_float64_are_computed_by_eager(log):
    check_by_eager(experts(dtype=torch.float64), 32, log, torch.float64)
    assert "because unsupported dtype" in log.text


def test_eager_is_what_lies_below_all_decorations(log):
    """Transformers' FP8 quantizer decorates one class once for every layer."""
    module = without_grouped_mm()
    decorate = use_experts_implementation()
    module.__class__ = decorate(decorate(type(module)))
    check_by_eager(module, 30, log)


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


@pytest.mark.parametrize("compiles", BOOL)
@pytest.mark.parametrize("name", ["down_proj", "gate_up_proj_bias", "down_proj_bias"])
def test_a_gradient_of_one_parameter_alone(name, compiles):
    module, wanted = experts(has_bias=True), experts(has_bias=True)
    wanted.config._experts_implementation = "eager"
    x, chosen = torch.randn(9, 32), routing(9, 6)
    with torch.no_grad():
        module(x, *chosen)
    call = torch.compile(module, fullgraph=True, backend="aot_eager") if compiles else module
    for one, run in ((module, call), (wanted, wanted)):
        getattr(one, name).requires_grad_()
        run(x, *chosen).sum().backward()
    torch.testing.assert_close(getattr(module, name).grad, getattr(wanted, name).grad)


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


def with_other_down(module):
    module.down_proj.data = module.down_proj.data.bfloat16()
    return module


def test_weights_of_two_dtypes_are_left_to_transformers(log):
    x, (index, weights) = torch.randn(9, 32), routing(9, 6)
    module = with_other_down(experts())
    with torch.no_grad():
        output = module(x, index, weights)
        torch.testing.assert_close(output, own(module, x, index, weights))
        served = getattr(module, SERVING)
        module(x, index, weights)
    assert getattr(module, SERVING) is served
    assert "its weights are of two dtypes (torch.float32, torch.bfloat16)" in log.text


def test_so_are_those_that_become_so_after_a_call():
    x, (index, weights) = torch.randn(9, 32), routing(9, 6)
    module = experts()
    with torch.no_grad():
        module(x, index, weights)
        module = with_other_down(module)
        output = module(x, index, weights)
        torch.testing.assert_close(output, own(module, x, index, weights))


def test_second_weights_elsewhere_are_left_to_transformers(log):
    module = experts()
    module.down_proj = nn.Parameter(module.down_proj.data.to("meta"), False)
    x, (index, weights) = torch.randn(9, 32), routing(9, 6)
    with torch.no_grad(), pytest.raises(Exception):  # noqa: B017, PT011 - theirs
        module(x, index, weights)
    assert "its weights are on the meta device" in log.text


def test_the_name():
    assert NAME == "moe_rules"
    assert NAME in ALL_EXPERTS_FUNCTIONS


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux")
def test_one_parameter_at_a_time_is_there_twice():
    """Of two that get other strides."""

    def memory(name):
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))

    sizes = {"num_experts": 4, "hidden": 1024, "is_transposed": True, "dtype": torch.bfloat16}
    first, second = (experts(intermediate=n, **sizes) for n in (64, 2048))
    x = torch.randn(1, 1024, dtype=torch.bfloat16)
    index, weights = routing(1, 4)
    weight_bytes = sum(p.numel() * p.element_size() for p in second.parameters())
    with torch.no_grad():
        first(x, index, weights)  # what is compiled takes memory, too
        Path("/proc/self/clear_refs").write_text("5")
        before = memory("VmRSS")
        second(x, index, weights)
    if getattr(second, SERVING).packed:
        pytest.skip("nothing is compiled for this CPU, so that weights are packed")
    assert memory("VmHWM") - before < 0.9 * weight_bytes


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit", 0.5),
        ("alpha", 2.5),
        ("gate_up_proj_bias", nn.Parameter(torch.ones(6, 96), False)),
        ("down_proj_bias", nn.Parameter(torch.ones(6, 32), False)),
    ],
)
def test_what_is_set_afterwards_counts(name, value):
    module = experts(has_bias=True, gate=gpt_oss_gate, limit=3.0, alpha=1.7)
    x, chosen = torch.randn(5, 32), routing(5, 6)
    module(x, *chosen)
    served = getattr(module, SERVING)
    module.train()
    module(x, *chosen)
    assert getattr(module, SERVING) is served
    setattr(module, name, value)
    with torch.no_grad():
        output = module(x, *chosen)
    assert getattr(module, SERVING).kernel is not None
    assert relative_error(output, expected(module, x, *chosen)) <= 1e-5


@pytest.mark.parametrize("name", ["gate_up_proj_bias", "down_proj_bias"])
def test_what_has_the_name_of_a_bias_is_none_where_modules_have_no_biases(name):
    module = experts()
    rows = {"gate_up_proj_bias": 96, "down_proj_bias": 32}[name]
    module.register_parameter(name, nn.Parameter(torch.ones(6, rows), False))
    x, chosen = torch.randn(5, 32), routing(5, 6)
    output = module(x, *chosen)
    assert getattr(module, SERVING).kernel is not None
    assert relative_error(output, expected(module, x, *chosen)) <= 1e-5


def test_parameters_of_one_call_alone():
    """``functional_call`` puts them in the places of others, past the module's own methods."""
    module = experts(has_bias=True)
    x, chosen = torch.randn(5, 32), routing(5, 6)
    before = module(x, *chosen)
    given = {"gate_up_proj_bias": torch.ones(6, 96)}
    output = functional_call(module, given, (x, *chosen))
    assert torch.equal(module(x, *chosen), before)
    module.gate_up_proj_bias.data.fill_(1.0)
    assert torch.equal(module(x, *chosen), output)
    assert not torch.equal(output, before)
