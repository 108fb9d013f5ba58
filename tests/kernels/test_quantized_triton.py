"""Triton experts on quantized weights: on the GPU if there is one, else in the interpreter.

Every scheme that the tables claim runs in test_table_claims.py; here are sizes, routings and what
is refused.
"""

import dataclasses

import pytest
import torch
from checkpoints import converted
from moe_kernels.modular_kernel import PrepareResult
from moe_kernels.reference import relative_error
from moe_kernels.registry.bind import bind
from moe_kernels.routing import Routing
from moe_kernels.testing import random_layer

from moe_rules.vocabulary.layer import FusedMoEConfig, FusedMoEParallelConfig
from moe_rules.vocabulary.quant_keys import NAMED_KEYS

pytest.importorskip("triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SCHEMES = {
    "int8": ("TritonExperts", "kInt8StaticChannelSym", "kInt8DynamicTokenSym"),
    "int4": ("TritonWNA16Experts", "kInt4StaticAsym", None),
    "mxfp4": ("OAITritonExperts", "kMxfp4Static", None),
    "mxfp8": ("Mxfp8NativeTritonExperts", "kMxfp8Static", "kMxfp8Dynamic"),
    "nvfp4": ("Nvfp4QuantizationEmulationTritonExperts", "kNvfp4Static", "kNvfp4Dynamic"),
}


def draw(scheme, config, **options):
    _, weight, activation = SCHEMES[scheme]
    keys = [None if name is None else NAMED_KEYS[name] for name in (weight, activation)]
    return random_layer(config, *keys, device=DEVICE, **options)


def apply(scheme, layer, **changes):
    ready = converted(layer, SCHEMES[scheme][0])
    kernel = bind(SCHEMES[scheme][0], layer.moe_config, ready.quant_config)
    return kernel.apply(**ready.arguments() | changes)


def check(scheme, layer, **changes):
    ready = converted(layer, SCHEMES[scheme][0])
    kernel = bind(SCHEMES[scheme][0], layer.moe_config, ready.quant_config)
    output = kernel.apply(**ready.arguments() | changes)
    assert relative_error(output, layer.reference(kernel)) <= layer.error_bound(kernel)
    return output


# Sizes that no tile divides; MX groups that do not fill the last columns.
@pytest.mark.parametrize("sizes", [(64, 32), (80, 48)])
@pytest.mark.parametrize("num_tokens", [0, 1, 49])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_sizes(scheme, num_tokens, sizes):
    config = FusedMoEConfig(3, 2, *sizes, in_dtype="fp16")
    check(scheme, draw(scheme, config, num_tokens=num_tokens, group_size=16))


@pytest.mark.parametrize("num_tokens", [3, 49])
def test_tokens_may_be_quantized_before(num_tokens):
    layer = draw("int8", FusedMoEConfig(3, 2, 80, 48, in_dtype="fp16"), num_tokens=num_tokens)
    kernel = bind("TritonExperts", layer.moe_config, layer.quant_config)
    routing = Routing(layer.topk_ids, 3, None)
    quantized = kernel.experts.quantize_input(layer.hidden_states, routing)
    assert quantized[0].dtype == torch.int8
    prepared = PrepareResult(*quantized, layer.topk_weights, routing)
    output = kernel.experts.apply(prepared, layer.w13, layer.w2, "silu")
    torch.testing.assert_close(output, apply("int8", layer), rtol=0, atol=0)


@pytest.mark.parametrize("num_tokens", [0, 1, 49])
@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_the_sum_may_be_left_to_finalize(scheme, num_tokens):
    config = FusedMoEConfig(3, 2, 80, 48, in_dtype="fp16")
    layer = converted(
        draw(scheme, config, num_tokens=num_tokens, group_size=16), SCHEMES[scheme][0]
    )
    kernel = bind(SCHEMES[scheme][0], config, layer.quant_config)
    assert kernel.experts.can_leave_sum
    routing = Routing(layer.topk_ids, 3, None)
    scheme_input = kernel.experts.quantize_input(layer.hidden_states, routing)
    prepared = PrepareResult(*scheme_input, layer.topk_weights, routing, unsummed=True)
    rows = kernel.experts.apply(prepared, layer.w13, layer.w2, "silu")
    assert rows.shape == (num_tokens * 2, 80)
    output = (rows.view(-1, 2, 80).float() * layer.topk_weights.float()[..., None]).sum(1)
    summed = kernel.apply(**layer.arguments())
    torch.testing.assert_close(output.half(), summed, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("ep_rank", [0, 1])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_expert_map(scheme, ep_rank):
    parallel = FusedMoEParallelConfig(ep_size=2, use_ep=True)
    config = FusedMoEConfig(5, 2, 32, 32, in_dtype="fp32", moe_parallel_config=parallel)
    layer = draw(scheme, config, num_tokens=8, ep_rank=ep_rank)
    ids = layer.topk_ids.clone()
    ids[1] = torch.tensor([-1, 5])
    assert bool((check(scheme, layer) != 0).any())
    output = apply(scheme, layer, topk_ids=ids)
    assert bool((output[1] == 0).all())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_strides_and_router_weight_on_input(scheme):
    config = FusedMoEConfig(4, 1, 64, 32, in_dtype="fp32")
    layer = draw(scheme, config)
    strided = torch.stack([layer.hidden_states] * 2, dim=2)[..., 0]
    expected = check(scheme, layer, hidden_states=strided)
    # With topk 1 the weights of a random layer are all 1.
    weighed = apply(scheme, layer, apply_router_weight_on_input=True)
    assert torch.equal(weighed, expected)


def test_second_scales_may_differ_by_row():
    layer = draw("nvfp4", FusedMoEConfig(3, 2, 64, 32, in_dtype="fp32"))
    ready = converted(layer, SCHEMES["nvfp4"][0])
    rows = layer.quant_config.w13_scale_2[:, None, None].expand(3, 64, 1).clone()
    rows[:, 32:] *= 3.0
    config = dataclasses.replace(ready.quant_config, w13_scale_2=rows)
    kernel = bind(SCHEMES["nvfp4"][0], layer.moe_config, config)
    output = kernel.apply(**ready.arguments())
    scaled = dataclasses.replace(layer.quant_config, w13_scale_2=rows)
    expected = dataclasses.replace(layer, quant_config=scaled).reference(kernel)
    assert relative_error(output, expected) <= layer.error_bound(kernel)


def test_experts_that_route_are_given_logits():
    config = FusedMoEConfig(6, 2, 64, 32, "swigluoai", "Renormalize", "fp32")
    layer = draw("mxfp4", config, num_tokens=5, bias=True)
    ready = converted(layer, "OAITritonMxfp4ExpertsMonolithic")
    kernel = bind("OAITritonMxfp4ExpertsMonolithic", config, ready.quant_config)
    arguments = ready.arguments()
    logits = torch.randn(5, 6, device=DEVICE)
    top, ids = logits.topk(2)
    given = {"topk_weights": top.softmax(dim=-1), "topk_ids": ids}
    expected = kernel.apply(**arguments | given)
    for name in given:
        del arguments[name]
    assert torch.equal(kernel.apply_monolithic(router_logits=logits, **arguments), expected)
    with pytest.raises(ValueError, match=r"router_logits must be \[5, 6\], got \[5, 7\]"):
        kernel.apply_monolithic(router_logits=torch.zeros(5, 7), **arguments)
    other = bind("OAITritonExperts", config, ready.quant_config)
    with pytest.raises(ValueError, match="takes topk_weights and topk_ids, not router_logits"):
        other.apply_monolithic(router_logits=logits, **arguments)


def test_wrong_weights_are_named():
    layer = draw("mxfp4", FusedMoEConfig(3, 2, 64, 32, in_dtype="fp32"))
    ready = converted(layer, "OAITritonExperts")
    with pytest.raises(
        ValueError, match=r"needs torch.uint8 weights and .* for kMxfp4Static, got w13 torch.int8"
    ):
        apply("mxfp4", layer, w13=ready.w13.view(torch.int8))
    with pytest.raises(ValueError, match=r"needs w2 of shape \[3, 64, 32\], got \[3, 64, 16\]"):
        apply("mxfp4", layer, w2=layer.w2)
    with pytest.raises(ValueError, match=r"need w13 of shape \[num_experts, rows, 32\], got"):
        apply("mxfp4", layer, w13=ready.w13[..., :16])


@pytest.mark.parametrize(
    ("kernel", "weight", "activation", "message"),
    [
        ("OAITritonExperts", "kMxfp8Static", "kMxfp8Dynamic", "format mxfp4"),
        ("TritonExperts", "kInt8StaticChannelSym", "kInt8DynamicTensorSym", "or INT8 per channel"),
        ("Int4EmulationTritonExperts", "kInt4Static", None, "dequantized when loaded"),
        ("BatchedTritonExperts", "kMxfp4Static", None, "unquantized or FP8 weights"),
    ],
)
def test_other_schemes_are_refused(kernel, weight, activation, message):
    config = FusedMoEConfig(3, 2, 64, 32)
    key = None if activation is None else NAMED_KEYS[activation]
    layer = random_layer(config, NAMED_KEYS[weight], key)
    with pytest.raises(ValueError, match=message):
        bind(kernel, config, layer.quant_config)
