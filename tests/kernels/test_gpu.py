"""``TritonExperts`` on a GPU: every scheme and activation, under graph replay and torch.compile.

Run with ``-s`` to see the largest error of each scheme. Needs torch, triton and pytest only.
"""

from functools import partial

import pytest
import torch
from moe_kernels.reference import relative_error
from moe_kernels.registry.bind import bind
from moe_kernels.testing import random_layer

from moe_rules.vocabulary.facts import ACTIVATIONS
from moe_rules.vocabulary.layer import FusedMoEConfig, FusedMoEParallelConfig
from moe_rules.vocabulary.quant_keys import NAMED_KEYS, QuantKey, Scale

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def blocks(rows, columns):
    return QuantKey("fp8_e4m3", Scale("fp32", True, (rows, columns))), NAMED_KEYS[
        "kFp8Dynamic128Sym"
    ]


def named(weight, activation):
    return NAMED_KEYS[weight], NAMED_KEYS[activation]


UNQUANTIZED = (None, None)
SCHEMES = {
    "bf16": ("bf16", *UNQUANTIZED),
    "fp16": ("fp16", *UNQUANTIZED),
    "fp32": ("fp32", *UNQUANTIZED),
    "fp8_tensor_static": ("bf16", *named("kFp8StaticTensorSym", "kFp8StaticTensorSym")),
    "fp8_tensor_dynamic": ("bf16", *named("kFp8StaticTensorSym", "kFp8DynamicTensorSym")),
    "fp8_tensor_token": ("bf16", *named("kFp8StaticTensorSym", "kFp8DynamicTokenSym")),
    "fp8_channel_token": ("bf16", *named("kFp8StaticChannelSym", "kFp8DynamicTokenSym")),
    "fp8_channel_token_fp16": ("fp16", *named("kFp8StaticChannelSym", "kFp8DynamicTokenSym")),
    "fp8_block_128x128": ("bf16", *named("kFp8Static128BlockSym", "kFp8Dynamic128Sym")),
    "fp8_block_64x32": ("bf16", *blocks(64, 32)),
    "fp8_block_48x96": ("bf16", *blocks(48, 96)),
}

# tokens, experts, topk, hidden, intermediate; some have sizes that no tile divides. With a bias and
# an expert map or without: every combination is another kernel.
CASES = [
    ((1, 8, 2, 512, 256), False),
    ((20, 4, 3, 203, 83), True),
    ((37, 5, 3, 203, 83), False),
    ((150, 16, 4, 256, 128), True),
    ((600, 8, 4, 256, 384), False),
    ((500, 2, 1, 256, 1024), True),
    ((0, 4, 2, 128, 128), True),
]
CONSTANTS = {"swiglu_limit": 1.5, "activation_situ_beta": 1.3, "activation_situ_linear_beta": 2.0}
LARGEST: dict[str, float] = {}


@pytest.fixture(scope="module", autouse=True)
def report():
    # Whatever is not written before it is read shows as NaN.
    del_me = torch.full((1 << 28,), float("nan"), device="cuda")
    del del_me
    yield
    print("\nlargest relative error against float64")
    for scheme, error in LARGEST.items():
        print(f"  {scheme:24} {error:.2e}")


def make(scheme, activation, shape, *, bias, mapped, seed=0):
    in_dtype, *keys = SCHEMES[scheme]
    tokens, experts, topk, hidden, intermediate = shape
    ep_size = 2 if mapped else 1
    config = FusedMoEConfig(
        experts,
        topk,
        hidden,
        intermediate,
        activation,
        in_dtype=in_dtype,
        moe_parallel_config=FusedMoEParallelConfig(ep_size=ep_size, use_ep=mapped),
        **CONSTANTS,
    )
    return random_layer(config, *keys, tokens, "cuda", seed, bias=bias, ep_rank=ep_size - 1)


def check(scheme, layer, kernel, output):
    check_together(scheme, [(layer, kernel, output)])


def check_together(scheme, results):
    """Check the outputs of several layers as if they were those of one with all their tokens."""
    outputs = torch.cat([output for _, _, output in results])
    expected = torch.cat([layer.reference(kernel) for layer, kernel, _ in results])
    error = relative_error(outputs, expected)
    LARGEST[scheme] = max(error, LARGEST.get(scheme, 0.0))
    layer, kernel, _ = results[0]
    assert error <= layer.error_bound(kernel)


def capture(run):
    """A graph of ``run()`` and its output; kernels are compiled before."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = run()
    return graph, output


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_and_activation(scheme, activation):
    for shape, both in CASES:
        results = []
        # In a quantized layer the error of a single token is a matter of few roundings.
        for seed in range(max(1, 16 // max(1, shape[0]))):
            layer = make(scheme, activation, shape, bias=both, mapped=both, seed=seed)
            kernel = bind("TritonExperts", layer.moe_config, layer.quant_config)
            output = kernel.apply(**layer.arguments())
            results.append((layer, kernel, output))
        check_together(scheme, results)
        torch.cuda.set_sync_debug_mode("error")
        again = kernel.apply(**layer.arguments())
        torch.cuda.set_sync_debug_mode("default")
        assert torch.equal(output, again)

        # Replay on other tokens and another routing.
        graph, replayed = capture(partial(kernel.apply, **layer.arguments()))
        other = make(scheme, activation, shape, bias=both, mapped=both, seed=99)
        for name in ("hidden_states", "topk_weights", "topk_ids"):
            getattr(layer, name).copy_(getattr(other, name))
        graph.replay()
        assert torch.equal(replayed, kernel.apply(**layer.arguments()))


@pytest.mark.parametrize("activation", ["silu", "swigluoai", "relu2_no_mul"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_compiled(scheme, activation):
    layer = make(scheme, activation, (129, 8, 2, 256, 128), bias=True, mapped=True)
    kernel = bind("TritonExperts", layer.moe_config, layer.quant_config)

    def block(hidden_states, **arguments):
        return 2.0 * kernel.apply(hidden_states * 1.0, **arguments)

    arguments = layer.arguments()
    torch._dynamo.reset()
    compiled = torch.compile(block, fullgraph=True)
    output = compiled(**arguments)
    assert torch.equal(output, block(**arguments))
    check(scheme, layer, kernel, output / 2)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_compiled_with_dynamic_token_counts(scheme):
    torch._dynamo.reset()
    layer = make(scheme, "silu", (64, 8, 2, 256, 128), bias=False, mapped=False)
    kernel = bind("TritonExperts", layer.moe_config, layer.quant_config)
    compiled = torch.compile(kernel.apply, fullgraph=True, dynamic=True)
    for tokens in (64, 3, 17):
        part = {
            name: getattr(layer, name)[:tokens]
            for name in ("hidden_states", "topk_weights", "topk_ids")
        }
        arguments = layer.arguments() | part
        assert torch.equal(compiled(**arguments), kernel.apply(**arguments))


@pytest.mark.parametrize("scheme", ["bf16", "fp8_channel_token", "fp8_block_128x128"])
def test_strides_and_router_weight_on_input(scheme):
    layer = make(scheme, "silu", (37, 8, 1, 256, 128), bias=True, mapped=False)
    kernel = bind("TritonExperts", layer.moe_config, layer.quant_config)
    arguments = layer.arguments()
    expected = kernel.apply(**arguments)
    strided = torch.stack([layer.hidden_states] * 2, dim=2)[..., 0]
    assert torch.equal(kernel.apply(**arguments | {"hidden_states": strided}), expected)
    # With topk 1 the weights of a random layer are all 1.
    weighed = kernel.apply(**arguments, apply_router_weight_on_input=True)
    assert torch.equal(weighed, expected)


@pytest.mark.parametrize("scheme", ["bf16", "fp8_block_128x128"])
def test_as_many_experts_as_are_claimed(scheme):
    layer = make(scheme, "silu", (300, 992, 8, 128, 64), bias=True, mapped=False)
    kernel = bind("TritonExperts", layer.moe_config, layer.quant_config)
    check(scheme, layer, kernel, kernel.apply(**layer.arguments()))


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["bf16", "fp8_block_128x128"])
def test_more_elements_than_32_bits_count(scheme):
    layer = make(scheme, "silu", (16384, 32, 8, 4096, 14336), bias=False, mapped=False)
    assert layer.w13.numel() > 2**31
    assert layer.topk_ids.numel() * layer.w13.shape[1] > 2**31
    kernel = bind("TritonExperts", layer.moe_config, layer.quant_config)
    output = kernel.apply(**layer.arguments())
    error = relative_error(output, layer.reference(kernel, torch.float32))
    assert error <= layer.error_bound(kernel)
