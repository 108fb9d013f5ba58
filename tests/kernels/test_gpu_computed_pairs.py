"""Which (token, expert) pairs are computed, on a GPU: as in ``test_computed_pairs.py``, FP8 too.

And in replays of a CUDA graph on other routings, compiled, and without a sync.
"""

import pytest
import torch

pytest.importorskip("triton")

from computed_pairs import CHECKS, SCHEMES, make, without_experts
from moe_kernels.registry import runs_on_cpu

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

ON_GPU = [scheme for scheme in SCHEMES if not runs_on_cpu(scheme.kernel)]
FEW_AND_MANY = (5, 41, 300)


@pytest.fixture(autouse=True)
def poison():
    """Whatever is not written before it is read shows as NaN."""
    memory = torch.full((1 << 26,), float("nan"), device="cuda")
    del memory


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("num_tokens", FEW_AND_MANY)
@pytest.mark.parametrize("scheme", ON_GPU, ids=str)
def test_odd_routings(scheme, num_tokens, check):
    check(scheme, num_tokens, "cuda")


def odd_arguments(layer, arguments):
    """Ids of no expert, NaN in their weights, and an expert named several times."""
    ids, computed = without_experts(layer)
    ids[0] = layer.topk_ids[0, 0]
    computed[0] = True
    weights = torch.where(computed, layer.topk_weights, float("nan"))
    return arguments | {"topk_ids": ids, "topk_weights": weights}


@pytest.mark.parametrize("num_tokens", FEW_AND_MANY)
@pytest.mark.parametrize("scheme", ON_GPU, ids=str)
def test_replayed_without_a_sync(scheme, num_tokens):
    layer, arguments, kernel = make(scheme, num_tokens, "cuda")
    odd = odd_arguments(layer, arguments)
    expected = kernel.apply(**odd)
    torch.cuda.set_sync_debug_mode("error")
    try:
        kernel.apply(**odd)
    finally:
        torch.cuda.set_sync_debug_mode("default")

    # Captured with a routing that has nothing odd.
    static = arguments | {
        "topk_ids": layer.topk_ids.long(),
        "topk_weights": layer.topk_weights.clone(),
    }
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        kernel.apply(**static)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        replayed = kernel.apply(**static)
    for name in ("topk_ids", "topk_weights"):
        static[name].copy_(odd[name])
    graph.replay()
    assert torch.equal(replayed, expected)


@pytest.mark.parametrize("scheme", ON_GPU, ids=str)
def test_compiled(scheme):
    layer, arguments, kernel = make(scheme, 41, "cuda")
    odd = odd_arguments(layer, arguments)
    torch._dynamo.reset()
    assert torch.equal(torch.compile(kernel.apply, fullgraph=True)(**odd), kernel.apply(**odd))
