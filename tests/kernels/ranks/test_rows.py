"""What travels between ranks: which rows, how often, how wide, and what they may hold."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from moe_kernels.benchmark.peers import converted
from moe_kernels.ops import quantize_scaled
from moe_kernels.reference import relative_error
from moe_kernels.registry.bind import bind
from moe_kernels.routing import Routing
from test_exchanges import EXCHANGES, Case, check, output_of

INT8_TOKEN = ("kInt8StaticChannelSym", "kInt8DynamicTokenSym")
INT8_TENSOR = ("kInt8StaticTensorSym", "kInt8DynamicTensorSym")
IN_TRITON = Case((3, 2), 4, None, "TritonExperts", *INT8_TOKEN, "fp16")
interpreted = pytest.mark.skipif(
    torch.cuda.is_available(), reason="ranks run classes in Triton in the interpreter"
)


def prepare(rank, size, case, exchange):
    """Rows for and from every rank, the bytes of one, and the dtype that experts are given."""
    share = case.share(case.whole(), rank, exchange)
    kernel = case.kernel_of(share, exchange)
    routing = Routing(share.topk_ids, case.num_experts, share.expert_map)
    prepared = kernel.prepare_finalize.prepare(
        share.hidden_states, share.topk_weights, routing, kernel.experts, len(share.w13)
    )
    kernel.prepare_finalize.ranks.end_layer()
    moved = kernel.prepare_finalize.rows_moved(prepared.exchange)
    return *moved, prepared.exchange.row_bytes, str(prepared.hidden_states.dtype)


@pytest.mark.parametrize("exchange", ["all to all", "memory", "memory, fixed"])
def test_a_token_goes_once_to_each_rank_that_has_experts_for_it(pools, exchange):
    case = Case((6, 3, 0, 5), num_experts=8)
    whole = case.whole()
    found = pools(4).run(prepare, case, exchange)
    firsts = np.cumsum([0, *case.tokens])
    for rank, (sent, received, *_) in enumerate(found):
        owners = whole.topk_ids[firsts[rank] : firsts[rank + 1]] // 2
        assert sent == [int((owners == to).any(1).sum()) for to in range(4)]
        assert received == [there[0][rank] for there in found]


@interpreted
@pytest.mark.parametrize("exchange", EXCHANGES)
def test_rows_are_quantized_before_they_travel(pools, exchange):
    case = replace(IN_TRITON, hidden=1024)
    plain = pools(2).run(prepare, replace(case, weight=None, activation=None), exchange)
    quantized = pools(2).run(prepare, case, exchange)
    for (*_, wide, dtype), (*_, narrow, narrow_dtype) in zip(plain, quantized, strict=True):
        assert (dtype, narrow_dtype) == ("torch.float16", "torch.int8")
        # 1024 values of 2 bytes; or of 1, and their scale, both in units of 128 bytes at most.
        assert wide - narrow >= 1024 - 128
    check(pools, IN_TRITON, exchange)


@interpreted
@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("keys", [(None, None), INT8_TOKEN])
def test_a_rank_without_experts_runs_in_triton(pools, exchange, keys):
    case = replace(IN_TRITON, weight=keys[0], activation=keys[1], holds=((0, 1, 2, 3), ()))
    check(pools, case, exchange)


@interpreted
@pytest.mark.parametrize(
    ("kernel", "exchange"),
    [("TritonExperts", "all to all"), *(("CPUExpertsInt8", exchange) for exchange in EXCHANGES)],
)
def test_one_scale_for_all_is_one_over_the_tokens_of_a_ranks_experts(
    pools, exchange, kernel, monkeypatch
):
    monkeypatch.setattr(quantize_scaled, "_PARTIALS", 8)
    pools(2).run(few_programs)
    case = Case((3, 2), 4, None, kernel, *INT8_TENSOR, "fp16")
    whole, expected = case.whole(), 0.0
    for rank in range(2):
        alone = replace(case.share(whole, rank, exchange), **tokens_of(whole))
        part = bind(kernel, alone.moe_config, alone.quant_config).apply(**alone.arguments())
        expected = expected + part.double()
    assert relative_error(output_of(pools, case, exchange), expected) <= 1e-3


def static_scale_in_triton(layer):
    return converted(layer, "OCP_MXQuantizationEmulationTritonExperts")


def run_with_scale_of_rank(rank, size, case, exchange):
    """This rank's output, where static scales differ by powers of two."""
    share = case.share(case.whole(), rank, exchange)
    config = replace(share.quant_config, a13_scale=share.quant_config.a13_scale * 2**rank)
    kernel = case.kernel_of(replace(share, quant_config=config), exchange)
    return kernel.apply(**share.arguments()).numpy()


@interpreted
@pytest.mark.parametrize("exchange", EXCHANGES)
def test_static_scales_may_differ(pools, exchange):
    keys = "kMxfp4Static", "kFp8StaticTensorSym"
    case = Case((3, 2), 4, None, "OCP_MXQuantizationEmulationTritonExperts", *keys, "fp32")
    whole = replace(case, hidden=64, intermediate=64).whole()
    case = replace(case, hidden=64, intermediate=64, change=static_scale_in_triton)
    parts = pools(2).run(run_with_scale_of_rank, case, exchange)
    output = torch.cat([torch.from_numpy(part) for part in parts])
    assert relative_error(output, whole.reference()) <= whole.error_bound()


def few_programs(*_):
    """The interpreter runs one program after the other."""
    quantize_scaled._PARTIALS = 8


def tokens_of(layer):
    names = ("hidden_states", "topk_weights", "topk_ids")
    return {name: getattr(layer, name) for name in names}
