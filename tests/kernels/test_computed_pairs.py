"""Which (token, expert) pairs are computed: one meaning in every class of experts.

:mod:`moe_kernels.modular_kernel` has it. Classes in Triton run in the interpreter, which is wrong
for bf16 and does not do FP8; ``test_gpu_computed_pairs.py`` runs the same on a GPU, FP8 included.
"""

import pytest
import torch

pytest.importorskip("triton")

from computed_pairs import CHECKS, NO_EXPERTS, NUM_EXPERTS, SCHEMES, Scheme, make
from moe_kernels.ops import quantize_scaled
from moe_kernels.registry import our_names, runs_on_cpu
from moe_kernels.registry.bind import bind
from moe_kernels.testing import random_layer

from moe_rules.vocabulary.layer import FusedMoEConfig

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="test_gpu_computed_pairs.py runs the classes in Triton here"
)

FEW_AND_MANY = (5, 41)
"""Tokens: so many that programs find their pairs themselves, and that pairs are sorted."""

INTERPRETED = [scheme for scheme in SCHEMES if not scheme.is_fp8_in_triton]
UNQUANTIZED = ("CPUUnquantizedExperts", "TritonExperts", "BatchedTritonExperts")


@pytest.fixture(autouse=True)
def few_programs(monkeypatch):
    """The interpreter runs one program after the other."""
    monkeypatch.setattr(quantize_scaled, "_PARTIALS", 8)


def test_every_class_is_here():
    assert {scheme.kernel for scheme in SCHEMES} == set(our_names())


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("num_tokens", FEW_AND_MANY)
@pytest.mark.parametrize("scheme", INTERPRETED, ids=str)
def test_odd_routings(scheme, num_tokens, check):
    check(scheme, num_tokens, "cpu")


@pytest.mark.parametrize("num_tokens", FEW_AND_MANY)
@pytest.mark.parametrize("scheme", [s for s in SCHEMES if runs_on_cpu(s.kernel)], ids=str)
def test_where_torch_makes_tensors_by_default_does_not_matter(scheme, num_tokens):
    """Nor of which dtype: programs take addresses."""
    _, arguments, kernel = make(scheme, num_tokens, "cpu")
    expected = kernel.apply(**arguments)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            _, arguments, kernel = make.__wrapped__(scheme, num_tokens, "cpu")
            output = kernel.apply(**arguments)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(output, expected)


@pytest.mark.parametrize("kernel", UNQUANTIZED)
def test_against_sums_written_out(kernel):
    """Without anything of the package's own on how ids are read."""
    config = FusedMoEConfig(4, 3, 32, 16, in_dtype="fp32")
    layer = random_layer(config, num_tokens=30, seed=3)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(-2, 7, layer.topk_ids.shape, generator=generator, dtype=torch.int32)
    weights = torch.where((ids >= 0) & (ids < 4), layer.topk_weights, float("nan"))
    expected = torch.zeros(layer.hidden_states.shape, dtype=torch.float64)
    for token, chosen in enumerate(ids.tolist()):
        for slot, expert in enumerate(chosen):
            if expert in range(4):
                x = layer.w13[expert].double() @ layer.hidden_states[token].double()
                y = layer.w2[expert].double() @ (torch.nn.functional.silu(x[:16]) * x[16:])
                expected[token] += layer.topk_weights[token, slot].double() * y
    output = bind(kernel, config).apply(
        **layer.arguments() | {"topk_ids": ids, "topk_weights": weights}
    )
    torch.testing.assert_close(output.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("num_tokens", FEW_AND_MANY)
@pytest.mark.parametrize("kernel", UNQUANTIZED)
def test_a_routing_may_lie_anywhere(kernel, num_tokens):
    """A column of a table has no neighbours in memory."""
    _, arguments, bound = make(Scheme(kernel, in_dtype="fp32"), num_tokens, "cpu")
    strided = {
        name: torch.stack([arguments[name], torch.zeros_like(arguments[name])], -1)[..., 0]
        for name in ("topk_ids", "topk_weights", "expert_map", "hidden_states")
    }
    assert torch.equal(bound.apply(**arguments | strided), bound.apply(**arguments))


@pytest.mark.parametrize("kernel", UNQUANTIZED)
def test_tokens_weighed_before(kernel):
    """With ``apply_router_weight_on_input`` a NaN weight makes the whole row NaN."""
    config = FusedMoEConfig(NUM_EXPERTS, 1, 32, 16, in_dtype="fp32")
    layer = random_layer(config, num_tokens=20, seed=3)
    ids = layer.topk_ids.long()
    ids[3 : 3 + len(NO_EXPERTS), 0] = torch.tensor(NO_EXPERTS)
    known = (ids >= 0) & (ids < NUM_EXPERTS)
    arguments = layer.arguments() | {"topk_ids": ids, "apply_router_weight_on_input": True}
    kernel = bind(kernel, config)
    weights = torch.where(known, 0.5, 0.0)
    expected = kernel.apply(**arguments | {"topk_weights": weights})
    output = kernel.apply(**arguments | {"topk_weights": torch.where(known, 0.5, float("nan"))})
    assert torch.equal(output, expected)
    assert not output[~known[:, 0]].any()


@pytest.mark.parametrize("kernel", UNQUANTIZED)
def test_an_overflow_stays_in_its_token(kernel):
    """The last row of the last local expert is infinite; another token has an expert elsewhere."""
    config = FusedMoEConfig(4, 2, 64, 32, in_dtype="fp16")
    layer = random_layer(config, num_tokens=2, expert_map=False)
    hidden_states = layer.hidden_states.clone()
    hidden_states[1] = float("inf")
    output = bind(kernel, config).apply(
        **layer.arguments()
        | {
            "hidden_states": hidden_states,
            "w13": layer.w13[:2],
            "w2": layer.w2[:2],
            "topk_ids": torch.tensor([[1, 3], [1, 2]], dtype=torch.int32),
            "expert_map": torch.tensor([0, 1, -1, -1], dtype=torch.int32),
        }
    )
    assert bool(torch.isfinite(output[0]).all())
    assert not bool(torch.isfinite(output[1]).any())
