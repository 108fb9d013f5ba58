"""Every adapter of another kernel computes small layers on a GPU.

Needs torch, triton and pytest, and what ``benchmarks.peers.unpack`` puts into ``vendor-bench/``.
"""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from moe_kernels.benchmark.layers import draw_layer, draw_workload  # noqa: E402
from moe_kernels.benchmark.peers import PeerUnavailableError  # noqa: E402
from moe_kernels.benchmark.runner import PEER_BOUND  # noqa: E402
from moe_kernels.benchmark.shapes import SCHEMES, Shape  # noqa: E402
from moe_kernels.reference import relative_error  # noqa: E402

from benchmarks.peers import PEERS  # noqa: E402

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)
pytestmark = pytest.mark.gpu

# Of hidden sizes below twice the intermediate one, workspaces of vLLM's TritonOrDeepGemmExperts are
# too small for Triton, which computes layers of up to 512 there.
SHAPES = {
    "plain": Shape(16, 4, 1024, 384),
    "expert_parallel": Shape(16, 4, 1024, 384, ep_size=4),
    "gpt_oss": Shape(16, 4, 576, 320, activation="swigluoai", bias=True),
}


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_computes_the_layer(scheme, shape, peer) -> None:
    sizes, asked = SHAPES[shape], SCHEMES[scheme]
    if not asked.takes(sizes):
        pytest.skip("groups do not divide the sizes")
    layer = draw_layer(sizes, asked, 3)
    try:
        run = PEERS[peer].bind(layer)
    except PeerUnavailableError as error:
        pytest.skip(str(error))
    if run is None:
        pytest.skip(f"{peer} does not run such layers")
    for num_tokens in (1, 33, 600):
        workload = draw_workload(layer, sizes, asked, num_tokens, "uniform", 1, num_tokens)
        tokens = workload.inputs[0]
        error = relative_error(run(tokens), tokens.reference(dtype=torch.float32))
        assert error <= PEER_BOUND * tokens.error_bound(), f"{num_tokens} tokens"
