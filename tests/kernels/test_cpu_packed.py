"""Weights packed for CPUs, and the layers of those that this CPU, or another, cannot pack."""

import dataclasses
from typing import NamedTuple

import pytest
import torch
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
    """What oneDNN has to multiply for them to be packed as they are; None: they never are.

    Unquantized ones are where nothing is compiled for them.
    """
    copied: bool = True
    """Whether copies may be packed."""
    group_size: int = 32


CASES = [
    Case("CPUUnquantizedExperts", "fp32", (), torch.float32),
    Case("CPUUnquantizedExperts", "bf16", (), torch.bfloat16),
    Case("CPUUnquantizedExperts", "fp16", (), torch.float16),
    Case("CPUExpertsInt8", "bf16", INT8, torch.int8, copied=False),
    Case("CPUExpertsInt8", "fp32", INT8, torch.int8, copied=False),
    Case("CPUExpertsInt4", "bf16", INT4_ASYM, group_size=16),  # groups smaller than a step
    Case("CPUExpertsInt4", "bf16", INT4_ASYM),
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
@pytest.mark.parametrize("case", CASES, ids=str)
def test_packed_or_not(case, dequantize, num_tokens, bias, answer, compiles):
    config = FusedMoEConfig(5, 2, 64, 96, in_dtype=case.in_dtype)
    layer = random_layer(
        config, *case.keys, num_tokens=num_tokens, bias=bias, group_size=case.group_size
    )
    weights, kernel, arguments = converted(case.name, layer, dequantize)
    packed = case.multiplied in answer and (bool(case.keys) or not compiles)
    if dequantize and case.copied:
        # In float32 only where nothing multiplies the weights as they are.
        packed = layer.hidden_states.dtype in answer or (
            torch.float32 in answer and not (compiles and case.group_size % 32 == 0)
        )
    assert (weights.packed is not None) == packed
    check(layer, kernel, arguments)


@pytest.mark.parametrize("in_dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("keys", [(), INT4_ASYM])
def test_copies_are_in_the_layers_dtype_or_in_float32(keys, in_dtype, answer, compiles):
    layer = random_layer(FusedMoEConfig(4, 2, 64, 32, in_dtype=in_dtype), *keys, group_size=32)
    dtype, name = layer.hidden_states.dtype, "CPUExpertsInt4" if keys else "CPUUnquantizedExperts"
    packed = converted(name, layer, dequantize=True)[0].packed
    expected = dtype if dtype in answer or compiles else torch.float32
    assert (packed is None) == (expected not in answer)
    assert packed is None or {w.dtype for w in packed.w13.experts} == {expected}
    assert packed is None or (packed.w13.stored is not None) == compiles


@pytest.mark.usefixtures("answer", "compiles")
def test_few_tokens_of_one_expert_and_many_of_another():
    config = FusedMoEConfig(3, 1, 64, 96)
    for keys in ((), INT4, (NAMED_KEYS["kMxfp4Static"],)):
        layer = random_layer(config, *keys, num_tokens=60, bias=True, group_size=32)
        ids = torch.tensor([[0]] * 40 + [[1]] * 17 + [[2]] * 3, dtype=layer.topk_ids.dtype)
        layer = dataclasses.replace(layer, topk_ids=ids)
        name = {0: "CPUUnquantizedExperts"}.get(len(keys)) or (
            "CPUExpertsInt4" if keys == INT4 else "CPUExpertsMxfp4"
        )
        for dequantize in (False, True):
            _, kernel, arguments = converted(name, layer, dequantize)
            check(layer, kernel, arguments)


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
    layer = random_layer(FusedMoEConfig(4, 2, 64, 32, in_dtype="fp32"))
    weights, _, stand_ins = converted("CPUUnquantizedExperts", layer, dequantize=True)
    if weights.packed is None:
        pytest.skip("needs oneDNN")
    for name, tensor in stand_ins.items():
        assert tensor.shape == getattr(layer, name).shape
        assert tensor.untyped_storage().nbytes() == 4
    other = bind("CPUUnquantizedExperts", layer.moe_config, layer.quant_config)
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
