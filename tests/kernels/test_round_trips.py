"""Weights keep their values on the way into every backend whose kernel is this package's.

The tables say which backends those are, and which weights their kernels take. A layer is written
as a checkpoint would have it, converted, and read back. Run with ``-s`` to see each error.
"""

import pytest
import torch

pytest.importorskip("pydantic", reason="the tables are read with pydantic")

from checkpoints import FORMATS, checkpoint
from claims import claims
from moe_kernels.cpu.packed_weights import PackedInt8
from moe_kernels.layouts import convert_to_kernel_format
from moe_kernels.quantization.schemes import quantization_format
from moe_kernels.registry import our_names
from moe_kernels.testing import random_layer
from read_back import values

from moe_rules.language.ruleset import load_platform
from moe_rules.vocabulary.layer import FusedMoEConfig
from moe_rules.vocabulary.quant_keys import TOKEN
from moe_rules.vocabulary.table_names import PLATFORMS

CONFIG = FusedMoEConfig(2, 2, 128, 128)
DTYPE = torch.bfloat16
FORMATS_OF = {
    "unquantized": {None},
    "fp8": {"fp8"},
    "int8": {"int8"},
    "int_wna16": {"int4", "uint8"},
    "mxfp4": {"mxfp4"},
    "mxfp4_deepseek_v4": {"mxfp4"},
    "mxfp8": {"mxfp8"},
    "nvfp4": {"nvfp4"},
    "w4a8": {"int4"},
    "w4a8_int8": {"int8"},
}
"""The formats of the weights that each oracle is asked about."""
GROUP_SIZES = dict(zip(FORMATS, (32, 64, 128, -1), strict=True))


def format_of(key):
    return None if key is None else quantization_format(key)


def conversions():
    """{(kernel, key): (oracle, backend) that lead to it}; the latter as lists without doubles."""
    claimed = dict.fromkeys((c.kernel, c.oracle, c.weight_key) for c in claims(on_gpu=False)[0])
    found = {(kernel, key): [] for kernel, _, key in claimed}
    for oracle, formats in FORMATS_OF.items():
        for platform in PLATFORMS:
            for backend in load_platform(platform).oracles[oracle].backends.values():
                ours = {c.kernel.class_name for c in backend.choices} & set(our_names())
                for kernel, only_for, key in claimed:
                    place = (oracle, backend.name)
                    if (
                        kernel in ours
                        and format_of(key) in formats
                        and only_for in (None, oracle)
                        and place not in found[kernel, key]
                    ):
                        found[kernel, key].append(place)
    return found


PLACES = conversions()
CASES = [
    (kernel, key, checkpoint_format)
    for kernel, key in PLACES
    for checkpoint_format in (FORMATS if format_of(key) in ("int4", "uint8") else FORMATS[:1])
    if (checkpoint_format, format_of(key)) != ("auto_awq", "uint8")
]


@pytest.fixture(scope="module")
def lines():
    lines = set()
    yield lines
    print("\nlargest error, relative to the largest weight, by oracle, backend and kernel")
    print("\n".join(sorted(lines)))


def bound(before, after):
    """The largest error: none but where a kernel's weights are rounded, or multiplied, to read."""
    if isinstance(after.packed and after.packed.w13, PackedInt8):
        return 2**-23  # a product in float32
    dequantized = before.weight_key is not None and after.weight_key is None
    return 2**-8 if dequantized else 0


@pytest.mark.parametrize(("kernel", "key", "checkpoint_format"), CASES, ids=str)
def test_values_stay(kernel, key, checkpoint_format, lines):
    packs = format_of(key) in ("int4", "uint8")
    own_groups = packs and key.scale.group_shape == TOKEN
    group_size = GROUP_SIZES[checkpoint_format] if own_groups else None
    layer = random_layer(CONFIG, key, group_size=group_size)
    rows = layer.quant_config
    before = checkpoint(layer)._replace(weight_key=key)
    # What is before is read from the layer's own rows, which no checkpoint's packing has touched.
    before = before._replace(w13=layer.w13, w2=layer.w2, w13_zp=rows.w13_zp, w2_zp=rows.w2_zp)
    after = convert_to_kernel_format(
        kernel,
        checkpoint(layer, checkpoint_format),
        key,
        checkpoint_format=checkpoint_format,
        dtype=DTYPE,
    )
    error = 0.0
    for name in ("w13", "w2"):
        expected = values(before, name)
        difference = values(after, name, kernel, DTYPE) - expected
        error = max(error, float(difference.abs().max() / expected.abs().max()))
    packing = f"{checkpoint_format} g={group_size or 'key'}" if packs else "-"
    for oracle, backend in PLACES[kernel, key] or [("none", "-")]:
        lines.add(f"  {oracle:18} {backend:20} {kernel:42} {key!s:44} {packing:25} {error:.1e}")
    assert error <= bound(before, after)


@pytest.mark.parametrize("oracle", FORMATS_OF)
def test_every_backend_with_a_kernel_of_ours_is_there(oracle):
    covered = {place for places in PLACES.values() for place in places}
    for platform in PLATFORMS:
        for backend in load_platform(platform).oracles[oracle].backends.values():
            ours = {choice.kernel.class_name for choice in backend.choices} & set(our_names())
            assert not ours or (oracle, backend.name) in covered
