"""The GEMM whose warpgroups share the work, on a Hopper GPU: against float64, and the other kernel.

Needs torch, triton and pytest only.
"""

from __future__ import annotations

from itertools import product

import pytest
import torch
from moe_kernels.activation import ActivationParameters, activation_form, apply_activation
from moe_kernels.ops import fused_moe_gemm_hopper
from moe_kernels.ops.fused_moe_gemm import fused_moe_gemm, prepared_gemm
from moe_kernels.ops.gemm_launch import FusedActivation
from moe_kernels.ops.moe_align_block_size import moe_align_block_size
from moe_kernels.reference import relative_error
from moe_kernels.routing import Routing
from moe_kernels.tiling.devices import specializes_warps
from moe_kernels.tiling.tile_config import TileConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(
        torch.cuda.is_available() and not specializes_warps(torch.device("cuda")),
        reason="needs Hopper and Triton 3.6",
    ),
]

FP8 = torch.float8_e4m3fn
SCHEMES = ("fp8_block", "fp8_channel", "fp8_tensor", "16_bits")
PARAMETERS = {"swigluoai": ActivationParameters(limit=1.5, alpha=1.7, beta=1.0)}

# tokens, experts, topk, N, K, activation, bias. Some tiles are not full, in any direction.
# Without an activation, a row of A is a pair's.
CASES = [
    (600, 8, 2, 512, 512, "silu", False),
    (600, 8, 2, 512, 512, None, False),
    (333, 4, 3, 768, 208, "silu", True),
    (333, 4, 3, 200, 208, None, True),
    (333, 4, 3, 352, 208, "swigluoai", True),
    (700, 5, 1, 136, 1104, "relu2_no_mul", False),
    (97, 16, 4, 1024, 128, "gelu_tanh", False),
    (3000, 8, 2, 1536, 2048, "silu", False),
    (3000, 8, 2, 2048, 768, None, False),
]
TRANSPOSED = [
    (600, 8, 2, 512, 512, None, False),
    (333, 4, 3, 400, 576, "swigluoai", True),
    (333, 4, 3, 208, 320, None, True),
    (700, 5, 1, 144, 1152, "relu2_no_mul", False),
    (3000, 8, 2, 2048, 768, None, False),
]
"""Of weights that lie as [E, K, N]."""


def draw(scheme, experts, n, k, rows, dtype, seed):
    """a, b, a_scale, b_scale and block_shape, and both matrices with their scales in float32.

    dtype: of 16 bits.
    """
    generator = torch.Generator("cuda").manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, device="cuda", generator=generator)

    def scales(*shape):
        return torch.rand(*shape, device="cuda", generator=generator) + 0.5

    if scheme.startswith("16_bits"):
        a, b = normal(rows, k).to(dtype), (normal(experts, n, k) * k**-0.5).to(dtype)
        if scheme == "16_bits_transposed":
            b = b.mT.contiguous().mT
        return (a, b, None, None, None), (a.float(), b.float())
    a, b = normal(rows, k).to(FP8), normal(experts, n, k).to(FP8)
    if scheme == "fp8_block":
        groups = -(-k // 128)
        a_scale, b_scale = scales(rows, groups), scales(experts, -(-n // 128), groups) * k**-0.5
        by_column = a_scale.repeat_interleave(128, 1)[:, :k]
        by_block = b_scale.repeat_interleave(128, 1)[:, :n].repeat_interleave(128, 2)[..., :k]
        return (a, b, a_scale, b_scale, (128, 128)), (a.float() * by_column, b.float() * by_block)
    per_row = scheme == "fp8_channel"
    a_scale = scales(rows, 1) if per_row else scales(1)
    b_scale = scales(experts, n, 1) * k**-0.5 if per_row else scales(experts) * k**-0.5
    wide = b.float() * (b_scale if per_row else b_scale[:, None, None])
    return (a, b, a_scale, b_scale, None), (a.float() * a_scale, wide)


def route(tokens, experts, topk, seed, skewed):
    """topk_ids: evenly; or most to one expert, none to another, and some to none at all."""
    generator = torch.Generator("cuda").manual_seed(seed)
    logits = torch.randn(tokens, experts, device="cuda", generator=generator)
    if skewed:
        logits[:, 0] += 3
        logits[:, -1] -= 100
    ids = logits.topk(topk, dim=1).indices.int()
    if skewed:
        ids[::7, 0] = -1
    return ids


def expected(wide, ids, rows_are_pairs, activation, bias, out_dtype):
    """float64, but for ``out_dtype``, to which sums are rounded before an activation."""
    a, b = wide
    flat = ids.flatten()
    sums = torch.zeros(len(flat), b.shape[1], dtype=torch.float64, device="cuda")
    for expert in flat.unique().tolist():
        pairs = (flat == expert).nonzero().flatten()
        if expert >= 0:
            rows = pairs if rows_are_pairs else pairs // ids.shape[1]
            sums[pairs] = a[rows].double() @ b[expert].double().T
            sums[pairs] += 0.0 if bias is None else bias[expert].double()
    if activation is None:
        return sums
    sums = sums.to(out_dtype).double()
    return apply_activation(sums, activation, PARAMETERS.get(activation, ActivationParameters()))


def at_sorted_pairs(rows, pairs, top_k, num_pairs):
    """For each of the sorted pairs its row of ``rows``; NaN for padding."""
    ids = pairs.sorted_token_ids.long()
    exists = torch.arange(len(ids), device="cuda") < pairs.num_tokens_post_padded
    exists &= ids < num_pairs
    found = rows.float()[torch.where(exists, ids, 0) // top_k]
    return found.where(exists[:, None], torch.nan).to(rows.dtype)


def at_pairs(rows, pairs, num_pairs):
    """The reverse: for each pair its row, NaN where it has none."""
    found = torch.full((num_pairs + 1, rows.shape[1]), torch.nan, dtype=rows.dtype, device="cuda")
    end = pairs.num_tokens_post_padded.item()
    found[pairs.sorted_token_ids[:end].long()] = rows[:end]
    return found[:num_pairs]


@pytest.fixture
def launched(monkeypatch):
    """What launches the kernel, once it was asked for."""
    found = []
    launcher = fused_moe_gemm_hopper.launcher
    monkeypatch.setattr(
        fused_moe_gemm_hopper, "launcher", lambda *args: found.append(launcher(*args)) or found[-1]
    )
    prepared_gemm.cache_clear()
    return found


@pytest.mark.parametrize("skewed", [False, True])
@pytest.mark.parametrize(
    ("scheme", "case"),
    [*product(SCHEMES, CASES), *product(["16_bits_transposed"], TRANSPOSED)],
)
def test_it_computes_what_it_should_and_always_the_same(scheme, case, skewed, launched):
    tokens, experts, topk, n, k, activation, with_bias = case
    rows_are_pairs = activation is None
    num_pairs, rows = tokens * topk, tokens * (topk if rows_are_pairs else 1)
    out_dtype = torch.float16 if with_bias else torch.bfloat16
    operands, wide = draw(scheme, experts, n, k, rows, out_dtype, seed=1)
    a, b, a_scale, b_scale, block_shape = operands
    ids = route(tokens, experts, topk, 2, skewed)
    bias = torch.randn(experts, n, device="cuda").to(out_dtype) if with_bias else None
    fused = activation and FusedActivation(
        activation, PARAMETERS.get(activation, ActivationParameters())
    )
    width = n // 2 if activation and activation_form(activation).gated else n
    routing = Routing(ids, experts, None)
    pairs = moe_align_block_size(routing, 128, experts)
    tile = TileConfig(128, 256, 128 // a.element_size(), 2, 8, 4, warp_specialized=True)

    def run(out, **rows):
        return fused_moe_gemm(
            a,
            b,
            pairs,
            num_pairs,
            1 if rows_are_pairs else topk,
            tile,
            out_dtype,
            a_scale=a_scale,
            b_scale=b_scale,
            block_shape=block_shape,
            bias=bias,
            activation=fused,
            out=out,
            **rows,
        )

    outputs = []
    for _ in range(3):
        out = torch.full((num_pairs, width), float("nan"), dtype=out_dtype, device="cuda")
        outputs.append(run(out))
    top_k = 1 if rows_are_pairs else topk
    outputs.append(at_pairs(run(None, out_is_sorted=True), pairs, num_pairs))
    a = at_sorted_pairs(a, pairs, top_k, num_pairs)
    if a_scale is not None and a_scale.dim() > 1:
        in_turn = at_sorted_pairs(a_scale, pairs, top_k, num_pairs)
        a_scale = torch.empty_strided(in_turn.shape, (1, len(in_turn)), device="cuda")
        a_scale.copy_(in_turn)
    outputs.append(at_pairs(run(None, a_is_sorted=True, out_is_sorted=True), pairs, num_pairs))
    outputs.append(run(torch.full_like(outputs[0], torch.nan), a_is_sorted=True))
    assert launched, "the other kernel ran"
    computed = ids.flatten() >= 0
    reference = expected(wide, ids, rows_are_pairs, activation, bias, out_dtype)
    assert relative_error(outputs[0][computed], reference[computed]) < 1e-2
    assert outputs[0][~computed].isnan().all(), "rows without an expert are not written"
    for other in outputs[1:]:
        assert torch.equal(other[computed], outputs[0][computed])
