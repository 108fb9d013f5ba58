"""The CPU experts against the reference."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from moe_kernels.reference import relative_error
from moe_kernels.registry.bind import bind
from moe_kernels.testing import random_layer

from moe_rules.vocabulary.facts import ACTIVATIONS, DTYPES
from moe_rules.vocabulary.layer import FusedMoEConfig, FusedMoEParallelConfig
from moe_rules.vocabulary.quant_keys import NAMED_KEYS

UNQUANTIZED = (
    "CPUUnquantizedExperts",
    "X86CPUUnquantizedExperts",
    "ArmCPUUnquantizedExperts",
    "PowerCPUUnquantizedExperts",
)
BLOCK = (NAMED_KEYS["kFp8Static128BlockSym"], NAMED_KEYS["kFp8Dynamic128Sym"])
CONSTANTS = {"swiglu_limit": 1.5, "activation_situ_beta": 1.3, "activation_situ_linear_beta": 2.0}


def check(name, layer, **changes):
    kernel = bind(name, layer.moe_config, layer.quant_config)
    output = kernel.apply(**layer.arguments() | changes)
    assert output.dtype == layer.hidden_states.dtype
    assert relative_error(output, layer.reference(kernel)) <= layer.error_bound(kernel)
    return output


@pytest.mark.parametrize("in_dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_and_dtype(activation, in_dtype):
    config = FusedMoEConfig(6, 3, 40, 24, activation, in_dtype=in_dtype, **CONSTANTS)
    check("CPUUnquantizedExperts", random_layer(config, num_tokens=9, bias=True))


@pytest.mark.parametrize("name", UNQUANTIZED)
def test_every_unquantized_class(name):
    check(name, random_layer(FusedMoEConfig(4, 2, 32, 16)))


@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh"])
@pytest.mark.parametrize("name", ["CPUExpertsFp8", "CPUExpertsFp8W8A8"])
@pytest.mark.parametrize("sizes", [(256, 128), (200, 72)])
def test_fp8_blocks(name, activation, sizes):
    config = FusedMoEConfig(5, 2, *sizes, activation)
    check(name, random_layer(config, *BLOCK, num_tokens=11, bias=True))


QUANTIZED = [
    ("CPUExpertsMxfp4", "kMxfp4Static", None),
    ("CPUExpertsInt8", "kInt8StaticChannelSym", "kInt8DynamicTokenSym"),
    ("CPUExpertsInt4", "kInt4Static", None),
    ("CPUExpertsInt4", "kInt4StaticAsym", None),
    ("ZentorchExpertsInt4", "kInt4Static32", None),
]


@pytest.mark.parametrize("num_tokens", [0, 1, 11])
@pytest.mark.parametrize(("name", "weight", "activation"), QUANTIZED)
def test_other_quantized_weights(name, weight, activation, num_tokens):
    config = FusedMoEConfig(5, 2, 96, 64, "gelu_tanh")
    keys = [None if key is None else NAMED_KEYS[key] for key in (weight, activation)]
    check(name, random_layer(config, *keys, num_tokens=num_tokens, bias=True, group_size=16))


@pytest.mark.parametrize("num_tokens", [1, 70])
@pytest.mark.parametrize("sizes", [(48, 50), (40, 16), (64, 360)])
def test_a_last_group_that_is_shorter(sizes, num_tokens):
    layer = random_layer(FusedMoEConfig(3, 2, *sizes), NAMED_KEYS["kMxfp4Static"], None, num_tokens)
    check("CPUExpertsMxfp4", layer)


@pytest.mark.parametrize("activation", [None, "kInt8DynamicTokenSym"])
@pytest.mark.parametrize("weight", ["kInt4W4A8StaticGroup32Sym", "kInt4W4A8StaticChannelSym"])
def test_int4_stored_as_int8(weight, activation):
    config = FusedMoEConfig(5, 2, 96, 64, "swiglustep", "Renormalize", "fp32")
    key = None if activation is None else NAMED_KEYS[activation]
    layer = random_layer(config, NAMED_KEYS[weight], key)
    kernel = bind("CPUExpertsInt4", config, layer.quant_config, oracle="w4a8_int8")
    output = kernel.apply(**layer.arguments())
    assert relative_error(output, layer.reference(kernel)) <= layer.error_bound(kernel)
    with pytest.raises(ValueError, match="CPUExpertsInt4 executes int4 weights, got weights"):
        bind("CPUExpertsInt4", config, layer.quant_config)


@given(
    num_tokens=st.integers(0, 9),
    num_experts=st.integers(1, 9),
    ep_size=st.integers(1, 3),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
@settings(max_examples=40, deadline=None)
def test_ranks_add_up_to_the_whole_layer(num_tokens, num_experts, ep_size, seed, data):
    topk = data.draw(st.integers(1, num_experts))
    parallel = FusedMoEParallelConfig(ep_size=ep_size, use_ep=ep_size > 1)
    config = FusedMoEConfig(num_experts, topk, 16, 8, in_dtype="fp32", moe_parallel_config=parallel)
    whole = random_layer(config, num_tokens=num_tokens, seed=seed, expert_map=False)
    expected = check("CPUUnquantizedExperts", whole)
    total = torch.zeros_like(expected)
    per_rank = config.num_local_experts
    for rank in range(ep_size):
        local = slice(rank * per_rank, min((rank + 1) * per_rank, num_experts))
        if whole.w13[local].shape[0] == 0:
            continue
        expert_map = torch.full((num_experts,), -1, dtype=torch.int32)
        expert_map[local] = torch.arange(len(expert_map[local]), dtype=torch.int32)
        kernel = bind("CPUUnquantizedExperts", config)
        total += kernel.apply(
            **whole.arguments()
            | {"w13": whole.w13[local], "w2": whole.w2[local], "expert_map": expert_map}
        )
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-5)


def test_tokens_without_a_local_expert_get_zeros():
    config = FusedMoEConfig(4, 2, 16, 8)
    layer = random_layer(config, num_tokens=3)
    ids = layer.topk_ids.clone()
    ids[1] = torch.tensor([-1, 4])
    output = bind("CPUUnquantizedExperts", config).apply(**layer.arguments() | {"topk_ids": ids})
    assert bool((output[1] == 0).all())
    assert bool((output[0] != 0).any())


def test_non_contiguous_hidden_states():
    layer = random_layer(FusedMoEConfig(4, 2, 16, 8, in_dtype="fp32"))
    strided = torch.stack([layer.hidden_states] * 2, dim=2)[..., 0]
    assert not strided.is_contiguous()
    check("CPUUnquantizedExperts", layer, hidden_states=strided)


def test_router_weight_on_input():
    config = FusedMoEConfig(4, 1, 16, 8, "relu2_no_mul", in_dtype="fp32")
    layer = random_layer(config)
    weights = torch.rand_like(layer.topk_weights)
    changes = {"topk_weights": weights, "apply_router_weight_on_input": True}
    output = bind("CPUUnquantizedExperts", config).apply(**layer.arguments() | changes)
    scaled = layer.hidden_states * weights
    ones = torch.ones_like(weights)
    expected = bind("CPUUnquantizedExperts", config).apply(
        **layer.arguments() | {"hidden_states": scaled, "topk_weights": ones}
    )
    torch.testing.assert_close(output, expected)


@pytest.mark.parametrize("in_dtype", DTYPES)
@pytest.mark.usefixtures("answer")
def test_any_number_of_tokens_per_expert(in_dtype):
    config = FusedMoEConfig(2, 2, 96, 80, in_dtype=in_dtype)
    for num_tokens in (1, 2, 6, 7, 33):
        check("CPUUnquantizedExperts", random_layer(config, num_tokens=num_tokens, bias=True))


@pytest.mark.parametrize("name", ["CPUExpertsFp8", "CPUExpertsFp8W8A8"])
@pytest.mark.usefixtures("answer")
def test_fp8_weights_larger_than_a_block(name, monkeypatch):
    monkeypatch.setattr("moe_kernels.experts.cpu_products._BLOCK_ELEMENTS", 1 << 15)
    for num_tokens in (2, 30):
        config = FusedMoEConfig(3, 2, 384, 320)
        check(name, random_layer(config, *BLOCK, num_tokens=num_tokens, bias=True))


@pytest.mark.parametrize("weight", ["Tensor", "Channel"])
def test_a_scale_per_tensor_is_one_over_all_experts(weight, monkeypatch):
    monkeypatch.setattr("moe_kernels.experts.cpu_experts._RUN_ELEMENTS", 1)
    keys = NAMED_KEYS[f"kFp8Static{weight}Sym"], NAMED_KEYS["kFp8DynamicTensorSym"]
    layer = random_layer(FusedMoEConfig(6, 2, 64, 48), *keys, num_tokens=9)
    check("CPUExpertsFp8W8A8", layer)


@pytest.mark.parametrize("run_elements", [1, 400])
def test_runs_of_experts_do_not_change_the_result(run_elements, monkeypatch):
    layer = random_layer(FusedMoEConfig(7, 3, 32, 24), num_tokens=13)
    expected = check("CPUUnquantizedExperts", layer)
    monkeypatch.setattr("moe_kernels.experts.cpu_experts._RUN_ELEMENTS", run_elements)
    monkeypatch.setattr("moe_kernels.experts.cpu_experts._SUM_ELEMENTS", run_elements)
    assert torch.equal(check("CPUUnquantizedExperts", layer), expected)


def test_weights_that_require_gradients():
    layer = random_layer(FusedMoEConfig(4, 2, 16, 8))
    expected = check("CPUUnquantizedExperts", layer)
    parameters = {name: torch.nn.Parameter(getattr(layer, name)) for name in ("w13", "w2")}
    kernel = bind("CPUUnquantizedExperts", layer.moe_config)
    assert torch.equal(kernel.apply(**layer.arguments() | parameters), expected)


def test_compiles_without_graph_breaks():
    layer = random_layer(FusedMoEConfig(4, 2, 16, 8, in_dtype="fp32"))
    kernel = bind("CPUUnquantizedExperts", layer.moe_config)
    compiled = torch.compile(kernel.apply, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(
        compiled(**layer.arguments()), kernel.apply(**layer.arguments()), rtol=0, atol=0
    )


@pytest.mark.parametrize("name", ["CPUExpertsFp8", "CPUExpertsFp8W8A8"])
def test_fp8_classes_refuse_unquantized_layers(name):
    with pytest.raises(ValueError, match="executes fp8 weights"):
        bind(name, FusedMoEConfig(4, 2, 16, 8))


def test_unquantized_class_refuses_quantized_layers():
    config = FusedMoEConfig(4, 2, 128, 128)
    layer = random_layer(config, *BLOCK)
    with pytest.raises(ValueError, match="executes unquantized weights, got weights kFp8Static"):
        bind("CPUUnquantizedExperts", config, layer.quant_config)
