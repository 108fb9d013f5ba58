"""Weights packed for CPUs, and the layers of those that this CPU, or another, cannot pack."""

import dataclasses
from typing import NamedTuple

import pytest
import torch
from moe_kernels.cpu.packed_weights import PackedInt4
from moe_kernels.layouts import LayerWeights, convert_to_kernel_format
from moe_kernels.layouts.packed_for_cpu import packed_where_possible
from moe_kernels.reference import relative_error
from moe_kernels.registry.bind import bind
from moe_kernels.testing import random_layer

from moe_rules.vocabulary.layer import FusedMoEConfig
from moe_rules.vocabulary.quant_keys import NAMED_KEYS

BLOCK = (NAMED_KEYS["kFp8Static128BlockSym"], NAMED_KEYS["kFp8Dynamic128Sym"])
INT8 = (NAMED_KEYS["kInt8StaticChannelSym"], NAMED_KEYS["kInt8DynamicTokenSym"])
INT4, INT4_ASYM = (NAMED_KEYS["kInt4Static"],), (NAMED_KEYS["kInt4StaticAsym"],)


class Case(NamedTuple):
    """A kernel, the dtype and keys of its layer, and when its weights are packed."""

    name: str
    in_dtype: str
    keys: tuple = ()
    multiplied: torch.dtype | None = None
    """What oneDNN has to multiply for them to be packed as they are; None: they never are."""
    copied: bool = True
    """Whether copies may be packed."""
    group_size: int = 32


CASES = [
    Case("CPUUnquantizedExperts", "fp32", (), torch.float32),
    Case("CPUUnquantizedExperts", "bf16", (), torch.bfloat16),
    Case("CPUUnquantizedExperts", "fp16", (), torch.float16),
    Case("CPUExpertsInt8", "bf16", INT8, torch.int8, copied=False),
    Case("CPUExpertsInt8", "fp32", INT8, torch.int8, copied=False),
    Case("CPUExpertsInt4", "bf16", INT4_ASYM, group_size=16),  # groups that torch does not take
    Case("CPUExpertsInt4", "fp16", INT4),
    Case("CPUExpertsFp8", "bf16", BLOCK),
    Case("CPUExpertsFp8", "fp16", BLOCK),
    Case("CPUExpertsFp8W8A8", "bf16", BLOCK, copied=False),
    Case("CPUExpertsMxfp4", "bf16", (NAMED_KEYS["kMxfp4Static"],)),
]


def weights_of(layer):
    fields = ("w13_scale", "w2_scale", "w13_zp", "w2_zp", "weight_key")
    config = layer.quant_config
    return LayerWeights(layer.w13, layer.w2, **{f: getattr(config, f) for f in fields})


def converted(name, layer, dequantize=False):
    """The weights, their kernel, and what it takes in place of the layer's."""
    weights = packed_where_possible(name, weights_of(layer), layer.hidden_states.dtype, dequantize)
    config = dataclasses.replace(layer.quant_config, packed=weights.packed)
    kernel = bind(name, layer.moe_config, config)
    return weights, kernel, {"w13": weights.w13, "w2": weights.w2}


def check(layer, kernel, arguments):
    output = kernel.apply(**layer.arguments() | arguments)
    assert output.dtype == layer.hidden_states.dtype
    assert relative_error(output, layer.reference(kernel)) <= layer.error_bound(kernel)
    return output


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("num_tokens", [0, 1, 40])
@pytest.mark.parametrize("dequantize", [False, True])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name}-{case.in_dtype}")
def test_packed_or_not(case, dequantize, num_tokens, bias, answer):
    config = FusedMoEConfig(5, 2, 64, 96, in_dtype=case.in_dtype)
    layer = random_layer(
        config, *case.keys, num_tokens=num_tokens, bias=bias, group_size=case.group_size
    )
    weights, kernel, arguments = converted(case.name, layer, dequantize)
    as_they_are = case.multiplied in answer
    copied = dequantize and case.copied and torch.float32 in answer
    assert (weights.packed is not None) == (as_they_are or copied)
    check(layer, kernel, arguments)


@pytest.mark.parametrize("num_tokens", [0, 1, 40])
@pytest.mark.parametrize("keys", [INT4, INT4_ASYM])
@pytest.mark.usefixtures("answer")
def test_int4_in_the_product_of_torch_itself(keys, num_tokens):
    layer = random_layer(FusedMoEConfig(5, 2, 64, 32), *keys, num_tokens=num_tokens, group_size=32)
    for dequantize in (False, True):
        weights, kernel, arguments = converted("CPUExpertsInt4", layer, dequantize)
        assert isinstance(weights.packed.w13, PackedInt4)
        check(layer, kernel, arguments)


@pytest.mark.parametrize("in_dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("keys", [(), INT4_ASYM])
def test_copies_are_in_the_layers_dtype_or_in_float32(keys, in_dtype, answer):
    layer = random_layer(FusedMoEConfig(4, 2, 64, 32, in_dtype=in_dtype), *keys, group_size=16)
    dtype, name = layer.hidden_states.dtype, "CPUExpertsInt4" if keys else "CPUUnquantizedExperts"
    packed = converted(name, layer, dequantize=True)[0].packed
    expected = dtype if dtype in answer else torch.float32
    assert (packed is None) == (expected not in answer)
    assert packed is None or {w.dtype for w in packed.w13.experts} == {expected}


@pytest.mark.usefixtures("answer")
def test_int8_products_are_exact_at_the_ends_of_the_range():
    """Sums of two products of the largest codes do not fit 16 bits."""
    layer = random_layer(FusedMoEConfig(2, 1, 64, 32, in_dtype="fp32"), *INT8, num_tokens=8)
    extreme = dataclasses.replace(
        layer,
        hidden_states=torch.ones_like(layer.hidden_states),
        w13=torch.full_like(layer.w13, -127),
    )
    _, kernel, arguments = converted("CPUExpertsInt8", extreme)
    check(extreme, kernel, arguments)


def test_weights_still_count_as_what_they_are_where_others_were_packed():
    layer = random_layer(FusedMoEConfig(4, 2, 64, 32))
    _, kernel, arguments = converted("CPUUnquantizedExperts", layer, dequantize=True)
    output = check(layer, kernel, arguments)
    other = kernel.apply(**layer.arguments() | {"w13": layer.w13.flip(0)})
    assert not torch.equal(other, output)


def test_what_stands_for_packed_weights_takes_no_memory_and_means_nothing_to_others():
    layer = random_layer(FusedMoEConfig(4, 2, 64, 32), *INT4, group_size=32)
    _, _, stand_ins = converted("CPUExpertsInt4", layer)
    for name, tensor in stand_ins.items():
        assert tensor.shape == getattr(layer, name).shape
        assert tensor.untyped_storage().nbytes() == 1
    other = bind("CPUExpertsInt4", layer.moe_config, layer.quant_config)
    with pytest.raises(ValueError, match="its quant_config needs packed="):
        other.apply(**layer.arguments() | stand_ins)


@pytest.mark.parametrize(
    ("name", "keys"), [("CPUUnquantizedExperts", ()), ("CPUExpertsInt4", INT4)]
)
@pytest.mark.usefixtures("answer")
def test_packed_weights_compile_without_graph_breaks(name, keys):
    layer = random_layer(FusedMoEConfig(4, 2, 64, 32), *keys, group_size=32)
    _, kernel, arguments = converted(name, layer, dequantize=True)
    compiled = torch.compile(kernel.apply, fullgraph=True, backend="aot_eager")
    arguments = layer.arguments() | arguments
    torch.testing.assert_close(compiled(**arguments), kernel.apply(**arguments), rtol=0, atol=0)


def test_conversion_packs_for_cpu_kernels_only(answer):
    weights = weights_of(random_layer(FusedMoEConfig(4, 2, 16, 8)))
    for dequantize in (False, True):
        for name in ("CPUUnquantizedExperts", "TritonExperts"):
            converted = convert_to_kernel_format(name, weights, dequantize_for_cpu=dequantize)
            packs = torch.bfloat16 in answer or (dequantize and torch.float32 in answer)
            assert (converted.packed is not None) == (packs and name != "TritonExperts")


@pytest.mark.parametrize("dequantize", [False, True])
def test_weights_that_no_product_holds_stay_as_they_are(dequantize):
    layer = random_layer(FusedMoEConfig(4, 2, 16, 8))
    weights = LayerWeights(layer.w13.double(), layer.w2.double())
    converted = convert_to_kernel_format(
        "CPUUnquantizedExperts", weights, dequantize_for_cpu=dequantize
    )
    assert converted.packed is None
    assert converted.w13 is weights.w13
