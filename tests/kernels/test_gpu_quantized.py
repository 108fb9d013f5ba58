"""The quantized Triton experts on a GPU: under graph replay, torch.compile, and without syncs.

The schemes themselves run in test_table_claims.py. Needs torch, triton and pytest only.
"""

from functools import partial

import pytest
import torch
from checkpoints import checkpoint, converted
from moe_kernels.layouts import convert_to_kernel_format
from moe_kernels.layouts.unpacked_in_triton import in_units
from moe_kernels.ops.fused_moe_gemm_quantized import WeightTensors, fused_moe_gemm_quantized
from moe_kernels.ops.moe_align_block_size import moe_align_block_size
from moe_kernels.quantization.schemes import (
    QuantizedWeight,
    dequantize_weight,
    quantize_mx,
    quantize_weight,
)
from moe_kernels.reference import relative_error
from moe_kernels.registry.bind import bind
from moe_kernels.routing import Routing
from moe_kernels.testing import random_layer
from moe_kernels.tiling.devices import specializes_warps
from moe_kernels.tiling.layer_config import trial
from moe_kernels.tiling.tile_config import LayerConfig, TileConfig

from moe_rules.vocabulary.layer import FusedMoEConfig, FusedMoEParallelConfig
from moe_rules.vocabulary.quant_keys import NAMED_KEYS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

BATCHED = "BatchedTritonExperts"
SCHEMES = {
    "int8_channel": ("TritonExperts", "kInt8StaticChannelSym", "kInt8DynamicTokenSym"),
    "int8_tensor": ("TritonExperts", "kInt8StaticTensorSym", "kInt8DynamicTensorSym"),
    "int4": ("TritonWNA16Experts", "kInt4Static", None),
    "int4_zero_points": ("TritonWNA16Experts", "kInt4Static32Asym", None),
    "int8_weights": ("TritonWNA16Experts", "kInt8Static", None),
    "mxfp4": ("OAITritonExperts", "kMxfp4Static", None),
    "mxfp4_mxfp4": ("OCP_MXQuantizationEmulationTritonExperts", "kMxfp4Static", "kMxfp4Dynamic"),
    "mxfp8_emulated": ("Mxfp8EmulationTritonExperts", "kMxfp8Static", "kMxfp8Dynamic"),
    "mxfp8_native": ("Mxfp8NativeTritonExperts", "kMxfp8Static", "kMxfp8Dynamic"),
    "nvfp4": ("Nvfp4QuantizationEmulationTritonExperts", "kNvfp4Static", "kNvfp4Dynamic"),
    "batched": (BATCHED, None, None),
    "batched_fp8_tensor": (BATCHED, "kFp8StaticTensorSym", "kFp8DynamicTensorSym"),
    "batched_fp8_channel": (BATCHED, "kFp8StaticChannelSym", "kFp8DynamicTokenSym"),
    "batched_fp8_block": (BATCHED, "kFp8Static128BlockSym", "kFp8Dynamic128Sym"),
}
SHAPES = [(1, 8, 2, 512, 256), (600, 8, 4, 256, 384), (0, 4, 2, 128, 128), (37, 5, 3, 224, 96)]


def make(scheme, shape, *, mapped, in_dtype="bf16", seed=0, activation="silu"):
    _, *names = SCHEMES[scheme]
    tokens, experts, topk, hidden, intermediate = shape
    parallel = FusedMoEParallelConfig(ep_size=2 if mapped else 1, use_ep=mapped)
    config = FusedMoEConfig(
        experts,
        topk,
        hidden,
        intermediate,
        activation=activation,
        in_dtype=in_dtype,
        moe_parallel_config=parallel,
    )
    keys = [None if name is None else NAMED_KEYS[name] for name in names]
    layer = random_layer(
        config, *keys, tokens, "cuda", seed, bias=mapped, ep_rank=int(mapped), group_size=32
    )
    ready = converted(layer, SCHEMES[scheme][0])
    return layer, ready.arguments(), bind(SCHEMES[scheme][0], config, ready.quant_config)


def check(layer, kernel, output):
    assert relative_error(output, layer.reference(kernel)) <= layer.error_bound(kernel)


@pytest.mark.parametrize("in_dtype", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_graph_replay_without_syncs(scheme, shape, in_dtype):
    mapped = shape[0] != 1
    layer, arguments, kernel = make(scheme, shape, mapped=mapped, in_dtype=in_dtype)
    run = partial(kernel.apply, **arguments)
    output = run()
    results = [(output, layer.reference(kernel))]
    torch.cuda.set_sync_debug_mode("error")
    again = run()
    torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(output, again)

    # Replay on other tokens and another routing.
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        replayed = run()
    # What an FP8 layer makes of one token can hang on a single rounding: many tokens are judged.
    few = shape[0] == 1 and "fp8" in scheme
    for seed in range(1, 16 if few else 2):
        other, *_ = make(scheme, shape, mapped=mapped, in_dtype=in_dtype, seed=seed)
        for name in ("hidden_states", "topk_weights", "topk_ids"):
            getattr(layer, name).copy_(getattr(other, name))
        graph.replay()
        results.append((replayed.clone(), layer.reference(kernel)))
    if few:
        results = [tuple(torch.cat(tensors) for tensors in zip(*results, strict=True))]
    for actual, expected in results:
        assert relative_error(actual, expected) <= layer.error_bound(kernel)


@pytest.mark.parametrize("scheme", [name for name in SCHEMES if "fp8" not in name])
def test_many_tokens(scheme):
    """The tilings for long prompts, whose products overlap most: right, and always the same."""
    layer, arguments, kernel = make(scheme, (2048, 8, 2, 512, 256), mapped=False)
    output = kernel.apply(**arguments)
    check(layer, kernel, output)
    for _ in range(5):
        assert torch.equal(kernel.apply(**arguments), output)


SPECIALIZED_TILES = [
    TileConfig(16, 128, 128, 1, 4, 5, warp_specialized=True),
    TileConfig(16, 256, 128, 1, 16, 4, warp_specialized=True),
    TileConfig(16, 128, 256, 1, 8, 2, warp_specialized=True),
    TileConfig(32, 128, 128, 2, 8, 4, warp_specialized=True),
    TileConfig(64, 128, 128, 1, 8, 4, warp_specialized=True),
    TileConfig(128, 256, 128, 1, 8, 3, warp_specialized=True),
    TileConfig(256, 128, 128, 4, 8, 2, warp_specialized=True),
]
# Few pairs and many; columns that stages do not divide; ups after gates, in turn with them, none.
SPECIALIZED_CASES = [
    ((3, 8, 2, 512, 256), False, "silu"),
    ((333, 5, 3, 480, 352), True, "swigluoai"),
    ((600, 8, 4, 256, 416), True, "relu2_no_mul"),
]


@pytest.mark.skipif(
    not (torch.cuda.is_available() and specializes_warps(torch.device("cuda"))),
    reason="needs Hopper",
)
@pytest.mark.parametrize("tile", SPECIALIZED_TILES, ids=str)
@pytest.mark.parametrize("scheme", ["int4", "int4_zero_points", "int8_weights", "mxfp4"])
def test_warpgroups_that_share_the_work(monkeypatch, scheme, tile):
    from moe_kernels.ops import fused_moe_gemm_quantized_hopper

    taken = []
    takes = fused_moe_gemm_quantized_hopper.takes
    monkeypatch.setattr(
        fused_moe_gemm_quantized_hopper,
        "takes",
        lambda *args: taken.append(takes(*args)) or taken[-1],
    )
    for shape, mapped, activation in SPECIALIZED_CASES:
        layer, arguments, kernel = make(scheme, shape, mapped=mapped, activation=activation)
        with trial(LayerConfig(tile, tile)):
            output = kernel.apply(**arguments)
            assert torch.equal(kernel.apply(**arguments), output)
        check(layer, kernel, output)
    assert taken == [True] * 2 * len(SPECIALIZED_CASES)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_compiled(scheme):
    layer, whole, kernel = make(scheme, (64, 8, 2, 256, 128), mapped=True)
    torch._dynamo.reset()
    compiled = torch.compile(kernel.apply, fullgraph=True, dynamic=True)
    for tokens in (64, 3, 17):
        part = {
            name: getattr(layer, name)[:tokens]
            for name in ("hidden_states", "topk_weights", "topk_ids")
        }
        arguments = whole | part
        assert torch.equal(compiled(**arguments), kernel.apply(**arguments))


def test_int4_emulation_of_every_checkpoint_format():
    config = FusedMoEConfig(5, 2, 128, 64)
    key = NAMED_KEYS["kInt4StaticAsym"]
    layer = random_layer(config, key, None, 33, "cuda", group_size=32)
    for packing in ("compressed_tensors", "moe_wna16", "auto_gptq", "auto_awq"):
        converted = convert_to_kernel_format(
            "Int4EmulationTritonExperts", checkpoint(layer, packing), key, checkpoint_format=packing
        )
        kernel = bind("Int4EmulationTritonExperts", config)
        output = kernel.apply(**layer.arguments() | {"w13": converted.w13, "w2": converted.w2})
        check(layer, kernel, output)


def test_scaled_products_of_the_hardware_or_its_compiler():
    """``native_mx`` on a GPU without MX units: Triton widens the operands itself."""
    generator = torch.Generator("cuda").manual_seed(0)
    key = NAMED_KEYS["kMxfp8Static"]
    a = torch.randn(40, 256, device="cuda", generator=generator)
    w = quantize_weight(torch.randn(4, 192, 256, device="cuda", generator=generator), key)
    ids = torch.randint(0, 4, (40, 2), device="cuda", generator=generator, dtype=torch.int32)
    elements, scale = quantize_mx(a, "mxfp8")
    pairs = moe_align_block_size(Routing(ids, 4, None), 16, 4)
    output = fused_moe_gemm_quantized(
        elements.to(torch.float8_e4m3fn),
        WeightTensors(w.values, in_units(w.scale)),
        "mxfp8",
        pairs,
        80,
        2,
        TileConfig(16, 64, 128, 1, 4, 2),
        torch.bfloat16,
        a_scale=scale,
        native_mx=True,
    )
    rows = dequantize_weight(QuantizedWeight(elements.to(torch.float8_e4m3fn), scale), key)
    weights = dequantize_weight(w, key)
    expected = torch.einsum("tk,tenk->ten", rows, weights[ids.long()]).reshape(80, 192)
    assert relative_error(output, expected) < 4e-3
