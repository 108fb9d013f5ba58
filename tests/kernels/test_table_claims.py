"""What the tables claim is executed: every scheme, activation, bias and expert_map of a kernel.

CPU classes run here with everything they claim. Triton classes do so on a GPU; in the interpreter
they run a fixed sample of two combinations per scheme, chosen so that a kernel's schemes
have different activations between them. Layers are tiny, but not so tiny that one value in the
middle between two numbers of a format, rounded the other way, would count. Run with ``-s`` to see
how many combinations ran and the largest error of each scheme.
"""

import dataclasses
import os
import zlib
from collections import Counter

import pytest
import torch

pytest.importorskip("pydantic", reason="the tables are read with pydantic")
pytest.importorskip("triton")

from checkpoints import checkpoint
from claims import claims
from moe_kernels.dtypes import torch_dtype
from moe_kernels.layouts import convert_to_kernel_format
from moe_kernels.reference import relative_error
from moe_kernels.registry.bind import bind
from moe_kernels.testing import random_layer

from moe_rules.vocabulary.quant_keys import TOKEN

ON_GPU = torch.cuda.is_available()
GROUP_SIZES = (32, 64, 128, -1)
CHECKPOINT_FORMATS = ("compressed_tensors", "moe_wna16", "auto_gptq", "auto_awq")
EVERY, MEANINGLESS = claims(ON_GPU)
LARGEST: dict[tuple[str, str], float] = {}
RAN = Counter()


def _fp8_in_triton(claim):
    return (
        not claim.on_cpu
        and claim.weight_key is not None
        and (claim.weight_key.dtype == "fp8_e4m3" and claim.weight_key.scale.dtype == "fp32")
    )


def _chosen():
    """The claims to run here, and how many of each kernel are left out, with the reason."""
    if ON_GPU:
        # "1/4": the second quarter, for several processes on one GPU.
        part, parts = map(int, os.environ.get("CLAIMS_PART", "0/1").split("/"))
        return EVERY[part::parts], Counter()
    chosen, left = [], Counter()
    schemes = {}
    for claim in EVERY:
        if claim.on_cpu:
            chosen.append(claim)
        elif _fp8_in_triton(claim):
            left[claim.kernel, "the interpreter rounds to FP8 wrongly"] += 1
        else:
            schemes.setdefault((claim.kernel, claim.scheme), []).append(claim)
    for index, members in enumerate(schemes.values()):
        picked = {(13 * index + offset) % len(members) for offset in (0, len(members) // 2 + 3)}
        chosen += [members[i] for i in sorted(picked)]
        left[members[0].kernel, "left to the GPU"] += len(members) - len(picked)
    return chosen, left


CHOSEN, LEFT = _chosen()


def _skips():
    for (kernel, reason), count in sorted(LEFT.items()):
        yield pytest.param(None, marks=pytest.mark.skip(f"{kernel}: {count} {reason}"))
    for (kernel, reason), count in sorted(MEANINGLESS.items()):
        yield pytest.param(None, marks=pytest.mark.skip(f"{kernel}: {count} schemes: {reason}"))


@pytest.fixture(scope="module", autouse=True)
def report():
    yield
    print(f"\n{sum(RAN.values())} combinations of {len(EVERY)} claimed were executed:", end=" ")
    print(", ".join(f"{kernel} {count}" for kernel, count in RAN.items()))
    for (kernel, reason), count in sorted(LEFT.items()):
        print(f"  not run: {kernel}: {count}: {reason}")
    for (kernel, reason), count in sorted(MEANINGLESS.items()):
        print(f"  no scheme to run: {kernel}: {count}: {reason}")
    print("largest relative error against float64")
    for (kernel, scheme), error in LARGEST.items():
        print(f"  {kernel:42} {scheme:50} {error:.2e}")


@pytest.mark.parametrize("claim", [*(pytest.param(c, id=str(c)) for c in CHOSEN), *_skips()])
def test_a_claim_is_true(claim):
    # The same numbers for a claim whatever else the tables say.
    index = zlib.crc32(str(claim).encode())
    key = claim.weight_key
    groups = GROUP_SIZES[index % 4] if key is not None and key.scale.group_shape == TOKEN else None
    packing = CHECKPOINT_FORMATS[index // 4 % (3 if key and key.dtype == "uint8b128" else 4)]
    layer = random_layer(
        claim.config(),
        key,
        claim.activation_key,
        num_tokens=129 if ON_GPU else 17,
        device="cuda" if ON_GPU and not claim.on_cpu else "cpu",
        seed=index,
        bias=claim.bias,
        ep_rank=1 if claim.expert_map else 0,
        group_size=groups,
    )
    converted = convert_to_kernel_format(
        claim.kernel,
        checkpoint(layer, packing),
        key,
        checkpoint_format=packing,
        dtype=torch_dtype(claim.in_dtype),
    )
    config = dataclasses.replace(layer.quant_config, **converted.quant_fields())
    kernel = bind(claim.kernel, claim.config(), config, oracle=claim.oracle)
    arguments = layer.arguments() | {"w13": converted.w13, "w2": converted.w2}
    output = kernel.apply(**arguments)
    error = relative_error(output, layer.reference(kernel))
    RAN[claim.kernel] += 1
    scheme = (claim.kernel, f"{claim.scheme} {claim.in_dtype}")
    LARGEST[scheme] = max(error, LARGEST.get(scheme, 0.0))
    assert error <= layer.error_bound(kernel)
    if ON_GPU:
        assert torch.equal(kernel.apply(**arguments), output)
