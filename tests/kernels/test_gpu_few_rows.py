"""The programs for few rows on a GPU: every format, sizes, routings, graph replay.

Needs torch, triton and pytest only.
"""

from functools import partial

import pytest
import torch
from checkpoints import converted
from moe_kernels.ops.fused_moe_gemm_few_rows import has_few_rows_program
from moe_kernels.quantization.fp8 import dequantize, quantize
from moe_kernels.reference import relative_error
from moe_kernels.registry.bind import bind
from moe_kernels.tensor_spec import spec_of
from moe_kernels.testing import random_layer
from moe_kernels.tiling.layer_config import trial
from moe_kernels.tiling.tile_config import FEW_ROWS, LayerConfig, TileConfig

from moe_rules.vocabulary.layer import FusedMoEConfig, FusedMoEParallelConfig
from moe_rules.vocabulary.quant_keys import NAMED_KEYS, TOKEN

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or torch.cuda.get_device_capability() < (9, 0),
        reason="needs a CUDA device of compute capability 9.0 or more",
    ),
]

SCHEMES = {  # kernel, keys of weights and activations, group size, dtype
    "bf16": ("TritonExperts", None, None, None, "bf16"),
    "fp16": ("TritonExperts", None, None, None, "fp16"),
    "fp8_block": ("TritonExperts", "kFp8Static128BlockSym", "kFp8Dynamic128Sym", None, "bf16"),
    "fp8_channel": ("TritonExperts", "kFp8StaticChannelSym", "kFp8DynamicTokenSym", None, "bf16"),
    "fp8_tensor": ("TritonExperts", "kFp8StaticTensorSym", "kFp8StaticTensorSym", None, "bf16"),
    "int8": ("TritonWNA16Experts", "kInt8Static", None, 128, "bf16"),
    "int4": ("TritonWNA16Experts", "kInt4Static", None, 128, "bf16"),
    "int4_small_groups": ("TritonWNA16Experts", "kInt4Static", None, 16, "bf16"),
    "int4_zero_points": ("TritonWNA16Experts", "kInt4StaticAsym", None, 128, "bf16"),
    "int4_fp16": ("TritonWNA16Experts", "kInt4StaticAsym", None, 32, "fp16"),
    "mxfp4": ("OAITritonExperts", "kMxfp4Static", None, None, "bf16"),
    "mxfp8": ("Mxfp8EmulationTritonExperts", "kMxfp8Static", None, None, "bf16"),
    "nvfp4": (
        "Nvfp4QuantizationEmulationTritonExperts",
        "kNvfp4Static",
        "kNvfp4Dynamic",
        None,
        "bf16",
    ),
}
# experts, topk, hidden, intermediate, activation, bias and an expert map
LAYERS = [
    (8, 2, 1024, 512, "silu", False),
    (8, 3, 384, 256, "swigluoai", True),
    (16, 6, 640, 384, "relu2_no_mul", True),
    (8, 2, 2304, 1152, "silu", False),  # more turns than tokens are brought to shared memory for
    (8, 4, 2240, 1120, "swigluoai", True),  # and half a chunk
]
TILES = [  # warps, chunks at a time, columns: of both GEMMs
    ((4, 2, 16), (8, 1, 16)),
    ((2, 3, 32), (4, 2, 32)),
]


def tiling(up, down):
    tiles = [TileConfig(FEW_ROWS, n, 64, 1, warps, stages) for warps, stages, n in (up, down)]
    return LayerConfig(*tiles)


def make(scheme, shape, tokens, seed=0):
    name, *keys, group_size, dtype = SCHEMES[scheme]
    experts, topk, hidden, intermediate, activation, others = shape
    config = FusedMoEConfig(
        experts, topk, hidden, intermediate, activation=activation, in_dtype=dtype, has_bias=others
    )
    layer = random_layer(
        config,
        *(None if key is None else NAMED_KEYS[key] for key in keys),
        tokens,
        "cuda",
        seed,
        expert_map=others,
        group_size=group_size,
    )
    ready = converted(layer, name)
    return layer, ready, bind(name, config, ready.quant_config)


# Every one compiles: as few as have every layer, tiling and way to find pairs (40: sorted ones).
CASES = [(name, *case) for name in SCHEMES for case in ((0, 1, 0), (1, 5, 1), (2, 1, 1))] + [
    (name, 0, 40, 0) for name in ("bf16", "int4", "mxfp4")
]
CASES += [(name, 3, 1, 1) for name in ("fp8_block", "fp8_channel", "int4", "int8", "mxfp4")]
CASES += [("mxfp4", 4, 1, 0), ("mxfp4", 4, 1, 1)]


@pytest.mark.parametrize(("scheme", "shape", "tokens", "tiles"), CASES)
def test_few_rows(scheme, shape, tokens, tiles):
    shape, tiles = LAYERS[shape], TILES[tiles]
    layer, ready, kernel = make(scheme, shape, tokens)
    dtype = torch.float8_e4m3fn if "fp8_" in scheme else layer.hidden_states.dtype
    assert has_few_rows_program(dtype, spec_of(ready.w13), None)
    if tokens == 5:  # rows that another expert's are among, none, and more than there are at once
        layer.topk_ids[1, 0] = -1
        layer.topk_ids[:, 1] = 3
    bound = layer.error_bound(kernel)
    with trial(tiling(*tiles)) as asked:
        output = kernel.apply(**ready.arguments())
        again = kernel.apply(**ready.arguments())
    assert asked
    assert torch.equal(output, again)
    if tokens < 10 and "fp8_" in scheme:  # what comes of few FP8 tokens can hang on one rounding
        bound *= 3
    assert relative_error(output, layer.reference(kernel)) <= bound


@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("scheme", ["int4", "mxfp4", "fp8_block"])
def test_graph_replay_on_other_tokens(scheme, tokens):
    layer, ready, kernel = make(scheme, LAYERS[0], tokens)
    run = partial(kernel.apply, **ready.arguments())
    with trial(tiling(*TILES[0])):
        run()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            replayed = run()
        other, *_ = make(scheme, LAYERS[0], tokens, seed=1)
        for field in ("hidden_states", "topk_weights", "topk_ids"):
            getattr(layer, field).copy_(getattr(other, field))
        graph.replay()
        assert torch.equal(replayed, run())


def tiles_of(tokens):
    """Programs for few rows where there is one token, else what is chosen."""
    return trial(tiling(*TILES[0]) if tokens == 1 else None)


@pytest.mark.parametrize("amax", [3.5, 5.25])
@pytest.mark.parametrize("tokens", [1, 40])
@pytest.mark.parametrize("scheme", ["fp8_block", "fp8_channel"])
def test_tokens_that_are_quantized_already_give_the_same(scheme, tokens, amax):
    # Over a scale of 1 or 3 times a power of two, every eighth number is in the middle of two.
    layer, ready, kernel = make(scheme, LAYERS[0], tokens)
    x = layer.hidden_states
    x.copy_(torch.randint(-224, 225, x.shape) / 224 * amax)
    x[:, ::128] = amax
    group_shape = (1, 128) if scheme == "fp8_block" else TOKEN
    with tiles_of(tokens):
        output = kernel.apply(**ready.arguments())
        x.copy_(dequantize(*quantize(x.cpu(), group_shape), group_shape))
        assert torch.equal(output, kernel.apply(**ready.arguments()))


@pytest.mark.parametrize("tokens", [1, 40])
@pytest.mark.parametrize("scheme", ["fp8_block", "fp8_channel", "fp8_tensor"])
def test_what_is_no_number_makes_its_token_none_and_no_other(scheme, tokens):
    layer, ready, kernel = make(scheme, LAYERS[0], tokens)
    with tiles_of(tokens):
        before = kernel.apply(**ready.arguments())
        layer.hidden_states[0, 5] = float("nan")
        output = kernel.apply(**ready.arguments())
    assert output[0].isnan().all()
    assert torch.equal(output[1:], before[1:])


@pytest.mark.parametrize("tokens", [1, 40])
def test_infinity_over_a_static_scale_is_the_largest_number(tokens):
    layer, ready, kernel = make("fp8_tensor", LAYERS[0], tokens)
    outputs = []
    with tiles_of(tokens):
        for value in (1e4, float("inf")):
            layer.hidden_states[0, 5] = value
            outputs.append(kernel.apply(**ready.arguments()))
    assert outputs[0].isfinite().all()
    assert torch.equal(*outputs)


def test_a_token_without_experts_gets_zeros():
    layer, ready, kernel = make("int4", LAYERS[0], 1)
    layer.topk_ids.fill_(-1)
    with trial(tiling(*TILES[0])):
        assert not kernel.apply(**ready.arguments()).any()


def on_one_rank_of_four(whole, scheme):
    experts = whole.moe_config.num_experts // 4
    layer = whole.share(range(experts), FusedMoEParallelConfig(ep_size=4, use_ep=True))
    return layer, converted(layer, SCHEMES[scheme][0])


@pytest.mark.parametrize("scheme", ["fp8_block", "int4"])
def test_a_token_of_more_experts_than_are_summed_of_which_some_are_on_this_rank(scheme):
    whole, *_ = make(scheme, (32, 20, 640, 384, "silu", False), 1)
    layer, ready = on_one_rank_of_four(whole, scheme)
    kernel = bind(SCHEMES[scheme][0], layer.moe_config, ready.quant_config)
    with trial(tiling(*TILES[0])):
        output = kernel.apply(**ready.arguments())
    assert relative_error(output, layer.reference(kernel)) <= 3 * layer.error_bound(kernel)


@pytest.mark.parametrize("local", range(5))
@pytest.mark.parametrize("scheme", ["fp8_block", "fp8_channel", "int4", "bf16"])
def test_a_token_with_so_many_of_its_experts_on_this_rank(scheme, local):
    whole, *_ = make(scheme, (16, 6, 640, 384, "silu", False), 1)
    layer, ready = on_one_rank_of_four(whole, scheme)
    layer.topk_ids[0] = torch.tensor([*range(4, 10 - local), *range(local)]).roll(1)
    kernel = bind(SCHEMES[scheme][0], layer.moe_config, ready.quant_config)
    with trial(tiling(*TILES[0])):
        output = kernel.apply(**ready.arguments())
        assert torch.equal(output, kernel.apply(**ready.arguments()))
    if local == 0:
        assert not output.any()
    else:
        assert relative_error(output, layer.reference(kernel)) <= 3 * layer.error_bound(kernel)
