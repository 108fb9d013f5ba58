"""The Triton operations on small shapes: on the GPU if there is one, else in the interpreter.

The interpreter is wrong for bf16 products and FP8 conversions, so only fp16 and fp32 are here;
test_gpu.py has the rest.
"""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from moe_kernels.quantization.fp8 import quantize
from moe_kernels.quantization.integers import quantize_integer
from moe_kernels.reference import relative_error
from moe_kernels.registry.bind import bind
from moe_kernels.testing import random_layer

from moe_rules.vocabulary.facts import ACTIVATIONS
from moe_rules.vocabulary.layer import FusedMoEConfig, FusedMoEParallelConfig
from moe_rules.vocabulary.quant_keys import TENSOR, TOKEN

triton = pytest.importorskip("triton")

from moe_kernels.activation import ActivationParameters  # noqa: E402
from moe_kernels.ops import moe_align_block_size as align_ops  # noqa: E402
from moe_kernels.ops import moe_sum as sum_ops  # noqa: E402
from moe_kernels.ops import quantize_scaled as quantization_ops  # noqa: E402
from moe_kernels.ops.fused_moe_gemm import fused_moe_gemm  # noqa: E402
from moe_kernels.ops.gemm_launch import FusedActivation  # noqa: E402
from moe_kernels.ops.moe_align_block_size import (  # noqa: E402
    moe_align_block_size,
    sorted_tokens,
)
from moe_kernels.ops.moe_sum import moe_sum  # noqa: E402
from moe_kernels.ops.quantize_scaled import (  # noqa: E402
    SortedRows,
    prepared_quantization,
    quantize_scaled,
)
from moe_kernels.routing import Routing  # noqa: E402
from moe_kernels.tensor_spec import spec_of  # noqa: E402
from moe_kernels.tiling.tile_config import TileConfig  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CONSTANTS = {"swiglu_limit": 1.5, "activation_situ_beta": 1.3, "activation_situ_linear_beta": 2.0}


def first_and_count(experts):
    """For each of some blocks, by their experts: the first of its expert, and how many it has."""
    return [[experts.index(expert), experts.count(expert)] for expert in experts]


@given(
    num_tokens=st.integers(1, 40),
    topk=st.integers(1, 4),
    num_experts=st.integers(1, 9),
    block_size=st.sampled_from([4, 16]),
    mapped=st.booleans(),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=25, deadline=None)
def test_align_sorts_pairs_by_expert(num_tokens, topk, num_experts, block_size, mapped, seed):
    generator = torch.Generator().manual_seed(seed)
    # Ids just outside the range are no experts.
    shape = (num_tokens, topk)
    ids = torch.randint(-1, num_experts + 1, shape, generator=generator, dtype=torch.int32)
    expert_map, num_local = None, num_experts
    mapping = list(range(num_experts))
    if mapped:
        chosen = torch.randperm(num_experts, generator=generator)[: (num_experts + 1) // 2]
        num_local = len(chosen)
        expert_map = torch.full((num_experts,), -1, dtype=torch.int32)
        expert_map[chosen] = torch.arange(num_local, dtype=torch.int32)
        mapping = expert_map.tolist()
        expert_map = expert_map.to(DEVICE)
    routing = Routing(ids.to(DEVICE), num_experts, expert_map)
    sorted_ids, expert_ids, post_padded, taken, of_expert = moe_align_block_size(
        routing, block_size, num_local
    )
    assert taken.tolist() == [0]
    expected_ids, expected_experts = [], []
    for local in range(num_local):
        pairs = [
            p
            for p, expert in enumerate(ids.flatten().tolist())
            if 0 <= expert < num_experts and mapping[expert] == local
        ]
        padding = -len(pairs) % block_size
        expected_ids += pairs + [ids.numel()] * padding
        expected_experts += [local] * ((len(pairs) + padding) // block_size)
    assert int(post_padded) == len(expected_ids)
    assert sorted_ids[: len(expected_ids)].tolist() == expected_ids
    assert expert_ids[: len(expected_experts)].tolist() == expected_experts
    assert of_expert[: len(expected_experts)].tolist() == first_and_count(expected_experts)


@pytest.mark.parametrize("num_experts", [3, 40])
def test_align_of_more_pairs_than_one_program_takes(num_experts):
    generator = torch.Generator().manual_seed(num_experts)
    ids = torch.randint(-1, num_experts, (350, 2), generator=generator, dtype=torch.int64)
    routing = Routing(ids.to(DEVICE), num_experts, None)
    sorted_ids, expert_ids, post_padded, _, of_expert = moe_align_block_size(
        routing, 16, num_experts
    )
    flat = ids.flatten()
    expected, experts = [], []
    for expert in range(num_experts):
        pairs = (flat == expert).nonzero().flatten().tolist()
        pairs += [flat.numel()] * (-len(pairs) % 16)
        expected += pairs
        experts += [expert] * (len(pairs) // 16)
    assert int(post_padded) == len(expected)
    assert sorted_ids[: len(expected)].tolist() == expected
    assert expert_ids[: len(experts)].tolist() == experts
    assert of_expert[: len(experts)].tolist() == first_and_count(experts)


@pytest.mark.parametrize("num_experts", [3, 40])
@pytest.mark.parametrize("activation", [None, "silu"])
def test_sorted_and_unsorted_pairs_give_the_same(activation, num_experts):
    generator = torch.Generator(DEVICE).manual_seed(0)
    x = torch.randn(20, 32, generator=generator, device=DEVICE)
    w = torch.randn(num_experts, 48, 32, generator=generator, device=DEVICE)
    # A token may name an expert twice, or none.
    ids = torch.randint(-1, num_experts, (20, 2), generator=generator, device=DEVICE)
    config = TileConfig(16, 32, 32, 1, 4, 2)
    fused = activation and FusedActivation(activation, ActivationParameters())
    outputs = []
    for pairs in (
        moe_align_block_size(Routing(ids, num_experts, None), 16, num_experts),
        Routing(ids, num_experts, None),
    ):
        out = torch.full((40, 24 if activation else 48), float("nan"), device=DEVICE)
        fused_moe_gemm(x, w, pairs, 40, 2, config, x.dtype, activation=fused, out=out)
        outputs.append(out)
    torch.testing.assert_close(*outputs, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(outputs[0].isnan().any(dim=1), ids.flatten() < 0)


@pytest.mark.parametrize("last_block", [1, 64, 65, 128])
def test_blocks_with_an_empty_half_give_the_same(last_block):
    generator = torch.Generator(DEVICE).manual_seed(0)
    counts = [128 + last_block, last_block]
    ids = torch.arange(2, device=DEVICE).repeat_interleave(torch.tensor(counts, device=DEVICE))
    ids = ids[torch.randperm(len(ids), generator=generator, device=DEVICE)][:, None]
    x = torch.randn(len(ids), 32, generator=generator, device=DEVICE)
    w = torch.randn(2, 48, 32, generator=generator, device=DEVICE)
    outputs = []
    for rows in (16, 128):
        pairs = moe_align_block_size(Routing(ids, 2, None), rows, 2)
        config = TileConfig(rows, 32, 32, 1, 4, 2)
        out = torch.full((len(ids), 48), float("nan"), device=DEVICE)
        outputs.append(fused_moe_gemm(x, w, pairs, len(ids), 1, config, x.dtype, out=out))
    torch.testing.assert_close(*outputs)


def test_sum_ignores_what_is_not_local():
    x = torch.randn(6, 5, device=DEVICE)
    x[1] = float("nan")
    ids = torch.tensor([[0, 7], [1, 2], [2, 0]], dtype=torch.int32, device=DEVICE)
    weights = torch.rand(3, 2, device=DEVICE)
    output = moe_sum(x, weights, Routing(ids, 3, None))
    expected = x[0] * weights[0, 0]
    torch.testing.assert_close(output[0], expected)
    torch.testing.assert_close(output[2], x[4] * weights[2, 0] + x[5] * weights[2, 1])


@pytest.mark.parametrize("group_shape", [(1, 128), TOKEN, TENSOR])
@pytest.mark.parametrize("scale", [2.0**-7, 3 * 2.0**-8])
@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_what_is_in_the_middle_of_two_numbers_is_rounded_as_by_torch(dtype, scale, group_shape):
    if dtype != torch.int8 and DEVICE == "cpu":
        pytest.skip("the interpreter rounds to FP8 wrongly")
    largest = 127 if dtype == torch.int8 else 448
    x = torch.randint(-4 * largest, 4 * largest + 1, (9, 384), device=DEVICE) / 4 * scale
    x[:, ::128] = largest * scale
    expected = (
        quantize_integer(x, 8, group_shape)[:2] if dtype == torch.int8 else quantize(x, group_shape)
    )
    for one, other in zip(quantize_scaled(x, group_shape, dtype=dtype), expected, strict=True):
        assert torch.equal(one.float().flatten(), other.float().flatten())
    assert (expected[1] == scale).all()


@pytest.mark.parametrize("group_shape", [(1, 128), TOKEN])
def test_rows_of_local_experts_are_quantized_as_without_a_routing(group_shape):
    x = torch.randn(5, 200, device=DEVICE)
    ids = torch.tensor([[0, 3], [1, 3], [2, 0], [-1, 9], [1, 2]], dtype=torch.int32, device=DEVICE)
    expert_map = torch.tensor([-1, -1, 0, 1], dtype=torch.int32, device=DEVICE)
    computed = [0, 1, 2, 4]
    every = quantize_scaled(x, group_shape, dtype=torch.int8)
    some = quantize_scaled(x, group_shape, dtype=torch.int8, routing=Routing(ids, 4, expert_map))
    for one, other in zip(every, some, strict=True):
        assert torch.equal(one[computed], other[computed])


@pytest.mark.parametrize("group_shape", [(1, 128), TOKEN])
def test_sorted_pairs_are_quantized_as_without_a_routing(group_shape, monkeypatch):
    monkeypatch.setattr(quantization_ops, "_MOST_PROGRAMS", 2)  # so that they take turns
    quantization_ops.prepared_quantization.cache_clear()
    ids = torch.randint(-1, 9, (50, 1), dtype=torch.int32, device=DEVICE)
    expert_map = torch.tensor([-1, 2, 0, -1, 1, -1, -1, -1], dtype=torch.int32, device=DEVICE)
    routing = Routing(ids, 8, expert_map)
    x = torch.randn(50, 300, device=DEVICE)
    pairs = moe_align_block_size(routing, 16, 3)
    every = quantize_scaled(x, group_shape, dtype=torch.int8)
    some = quantize_scaled(x, group_shape, dtype=torch.int8, routing=routing, pairs=pairs)
    quantization_ops.prepared_quantization.cache_clear()
    computed = routing.local_experts().flatten() >= 0
    for one, other in zip(every, some, strict=True):
        assert torch.equal(one[computed], other[computed])


@pytest.mark.parametrize("group_shape", [(1, 128), TOKEN, TENSOR])
@pytest.mark.parametrize("x_is_sorted", [False, True])
def test_rows_are_quantized_where_sorted_pairs_are(group_shape, x_is_sorted):
    if group_shape == TENSOR and not x_is_sorted:
        return  # one scale for all has nothing to do with pairs
    tokens, topk, experts = 20, 3, 4
    ids = torch.randint(-1, experts, (tokens, topk), dtype=torch.int32, device=DEVICE)
    x = torch.randn(tokens, 300, device=DEVICE)
    pairs = moe_align_block_size(Routing(ids, experts, None), 16, experts)
    found, end = pairs.sorted_token_ids.long(), pairs.num_tokens_post_padded.item()
    exists = (torch.arange(len(found), device=DEVICE) < end) & (found < ids.numel())
    at_pairs = x[torch.where(exists, found, 0) // topk]
    expected = quantize_scaled(at_pairs[exists], group_shape, dtype=torch.int8)
    if x_is_sorted:
        x = at_pairs.where(exists[:, None], 1e9)
    rows = SortedRows(len(found), ids.numel(), x_is_sorted)
    facts = group_shape, False, torch.int8, experts, 1 if x_is_sorted else topk, False
    quantization = prepared_quantization(spec_of(x), *facts, sorted_rows=rows)
    values, scale = quantization(
        x, None, ids, None, pairs.sorted_token_ids, pairs.num_tokens_post_padded
    )
    assert (spec_of(values), spec_of(scale)) == (quantization.values, quantization.scale)
    assert torch.equal(values[exists], expected[0])
    assert torch.equal(scale if group_shape == TENSOR else scale[exists], expected[1])


def test_tokens_are_copied_to_where_sorted_pairs_are(monkeypatch):
    monkeypatch.setattr(align_ops, "_MOST_PROGRAMS", 2)  # so that they take turns
    sorted_tokens.cache_clear()
    ids = torch.tensor([[0, 2], [2, -1], [1, 0]], dtype=torch.int32, device=DEVICE)
    x = torch.randn(3, 3000, device=DEVICE)
    pairs = moe_align_block_size(Routing(ids, 3, None), 4, 3)
    copy = sorted_tokens(spec_of(x), len(pairs.sorted_token_ids), 2)
    rows = copy(x, pairs.sorted_token_ids, pairs.num_tokens_post_padded)
    sorted_tokens.cache_clear()
    assert spec_of(rows) == copy.values
    for row, pair in zip(rows, pairs.sorted_token_ids.tolist()[:12], strict=False):
        assert pair == ids.numel() or torch.equal(row, x[pair // 2])


@pytest.mark.parametrize("weighted", [False, True])
def test_programs_that_sum_more_than_one_block_sum_all(weighted, monkeypatch):
    monkeypatch.setattr(sum_ops, "_MOST_PROGRAMS", 4)
    sum_ops.sum_launcher.cache_clear()
    ids = torch.tensor([[0, 1], [2, 0], [1, 2]], dtype=torch.int32, device=DEVICE)
    weights = torch.rand(3, 2, device=DEVICE)
    x = torch.randn(6, 1700, device=DEVICE)
    output = moe_sum(x, weights if weighted else None, Routing(ids, 3, None))
    sum_ops.sum_launcher.cache_clear()
    expected = (x.view(3, 2, -1) * (weights[..., None] if weighted else 1)).sum(1)
    torch.testing.assert_close(output, expected)


def check(layer, **changes):
    kernel = bind("TritonExperts", layer.moe_config, layer.quant_config)
    output = kernel.apply(**layer.arguments() | changes)
    assert relative_error(output, layer.reference(kernel)) <= layer.error_bound(kernel)


@pytest.mark.parametrize("in_dtype", ["fp16", "fp32"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation, in_dtype):
    config = FusedMoEConfig(6, 2, 72, 40, activation, in_dtype=in_dtype, **CONSTANTS)
    check(random_layer(config, num_tokens=9, bias=True, device=DEVICE))


@pytest.mark.parametrize("num_tokens", [0, 1, 70])
@pytest.mark.parametrize("sizes", [(64, 32), (67, 35)])
def test_sizes(num_tokens, sizes):
    check(
        random_layer(
            FusedMoEConfig(3, 2, *sizes, in_dtype="fp32"), num_tokens=num_tokens, device=DEVICE
        )
    )


@pytest.mark.parametrize("ep_rank", [0, 1])
def test_expert_map(ep_rank):
    parallel = FusedMoEParallelConfig(ep_size=2, use_ep=True)
    config = FusedMoEConfig(5, 2, 32, 16, in_dtype="fp32", moe_parallel_config=parallel)
    check(random_layer(config, num_tokens=8, ep_rank=ep_rank, device=DEVICE))


def test_no_local_experts_at_all():
    layer = random_layer(FusedMoEConfig(4, 2, 32, 16, in_dtype="fp32"), device=DEVICE)
    ids = torch.full_like(layer.topk_ids, -1)
    kernel = bind("TritonExperts", layer.moe_config)
    output = kernel.apply(**layer.arguments() | {"topk_ids": ids})
    assert bool((output == 0).all())


def test_non_contiguous_arguments():
    layer = random_layer(FusedMoEConfig(4, 2, 32, 16, in_dtype="fp32"), device=DEVICE)
    check(
        layer,
        hidden_states=torch.stack([layer.hidden_states] * 2, dim=2)[..., 0],
        topk_ids=layer.topk_ids.T.contiguous().T,
        topk_weights=layer.topk_weights.T.contiguous().T,
        w13=layer.w13.transpose(1, 2).contiguous().transpose(1, 2),
    )


def test_wrong_dtype_is_named():
    layer = random_layer(FusedMoEConfig(4, 2, 32, 16, in_dtype="fp32"), device=DEVICE)
    with pytest.raises(ValueError, match=r"needs torch.float32 weights .*, got w13 torch.float16"):
        check(layer, w13=layer.w13.half())


def test_cpu_tensors_are_refused_unless_interpreted():
    program = (
        "from moe_kernels.registry.bind import bind; from moe_kernels.testing import random_layer\n"
        "from moe_rules.vocabulary.layer import FusedMoEConfig\n"
        "layer = random_layer(FusedMoEConfig(4, 2, 32, 16))\n"
        "try: bind('TritonExperts', layer.moe_config).apply(**layer.arguments())\n"
        "except ValueError as error: print(error)"
    )
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=env
    )
    assert "need a GPU, hidden_states is on cpu" in result.stdout, result.stderr
