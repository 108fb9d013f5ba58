"""The batched format: tokens grouped by expert, and experts that take them so."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from moe_kernels.modular_kernel import PrepareResult
from moe_kernels.prepare_finalize.batched import batch_rows, combine_rows, scatter_rows
from moe_kernels.reference import relative_error
from moe_kernels.registry.bind import bind
from moe_kernels.routing import Routing
from moe_kernels.testing import random_layer

from moe_rules.vocabulary.layer import FusedMoEConfig, FusedMoEParallelConfig

pytest.importorskip("triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@given(
    num_tokens=st.integers(0, 12),
    num_experts=st.integers(1, 6),
    ep_size=st.integers(1, 2),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
@settings(max_examples=40, deadline=None)
def test_rows_are_grouped_and_brought_back(num_tokens, num_experts, ep_size, seed, data):
    topk = data.draw(st.integers(1, num_experts))
    parallel = FusedMoEParallelConfig(ep_size=ep_size, use_ep=ep_size > 1)
    config = FusedMoEConfig(num_experts, topk, 4, 4, moe_parallel_config=parallel, in_dtype="fp32")
    layer = random_layer(config, num_tokens=num_tokens, seed=seed)
    local = layer.w13.shape[0]
    counts, rows = batch_rows(layer.topk_ids, num_experts, layer.expert_map, local)
    batched = scatter_rows(layer.hidden_states, rows, local)
    mapping = range(num_experts) if layer.expert_map is None else layer.expert_map.tolist()
    for expert in range(local):
        tokens = [t for t in range(num_tokens) if expert in [mapping[i] for i in layer.topk_ids[t]]]
        assert int(counts[expert]) == len(tokens)
        assert torch.equal(batched[expert, : len(tokens)], layer.hidden_states[tokens])
        assert bool((batched[expert, len(tokens) :] == 0).all())
    kept = torch.tensor([[mapping[i] >= 0 for i in ids] for ids in layer.topk_ids.tolist()])
    weight = (layer.topk_weights * kept.view(layer.topk_weights.shape)).sum(1, keepdim=True)
    combined = combine_rows(batched, rows, layer.topk_weights)
    torch.testing.assert_close(combined, layer.hidden_states * weight)


@pytest.mark.parametrize("num_tokens", [0, 1, 33])
@pytest.mark.parametrize("ep_rank", [0, 1])
def test_against_the_reference(num_tokens, ep_rank):
    parallel = FusedMoEParallelConfig(ep_size=2, use_ep=True)
    config = FusedMoEConfig(5, 2, 72, 40, in_dtype="fp32", moe_parallel_config=parallel)
    layer = random_layer(
        config, num_tokens=num_tokens, bias=True, ep_rank=ep_rank, device=DEVICE, seed=1
    )
    kernel = bind("BatchedTritonExperts", config, layer.quant_config)
    output = kernel.apply(**layer.arguments())
    assert relative_error(output, layer.reference(kernel)) <= layer.error_bound(kernel)


def test_router_weight_on_input():
    config = FusedMoEConfig(4, 1, 32, 16, in_dtype="fp32")
    layer = random_layer(config, device=DEVICE)
    kernel = bind("BatchedTritonExperts", config, layer.quant_config)
    weights = torch.rand_like(layer.topk_weights)
    output = kernel.apply(
        **layer.arguments() | {"topk_weights": weights}, apply_router_weight_on_input=True
    )
    scaled = layer.arguments() | {"hidden_states": layer.hidden_states * weights}
    torch.testing.assert_close(output, kernel.apply(**scaled))


def test_the_batched_format_is_required():
    config = FusedMoEConfig(4, 2, 32, 16, in_dtype="fp32")
    layer = random_layer(config, device=DEVICE)
    experts = bind("BatchedTritonExperts", config).experts
    routing = Routing(layer.topk_ids, 4, None)
    prepared = PrepareResult(layer.hidden_states, None, layer.topk_weights, routing)
    with pytest.raises(ValueError, match=r"needs hidden_states .E, max_tokens, H. and"):
        experts.apply(prepared, layer.w13, layer.w2, "silu")
