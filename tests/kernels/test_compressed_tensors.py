"""Checkpoints that compressed-tensors writes are what quantization and conversion take them for.

Given our scales, its compressors store the same bits as we do; its AutoAWQ converter reads the
same codes.
"""

import pytest
import torch
from checkpoints import checkpoint
from moe_kernels.layouts import LayerWeights, convert_to_kernel_format
from moe_kernels.quantization.microscaling import decode_e8m0
from moe_kernels.quantization.schemes import (
    QuantizedWeight,
    dequantize_weight,
    quantization_format,
    quantize_weight,
)
from moe_kernels.testing import random_layer
from read_back import values

from moe_rules.vocabulary.layer import FusedMoEConfig
from moe_rules.vocabulary.quant_keys import NAMED_KEYS

# Importing it imports transformers.
pytestmark = pytest.mark.slow

INT4 = {"num_bits": 4, "type": "int"}
FLOAT8 = {"num_bits": 8, "type": "float"}
CASES = [
    ("float-quantized", "kFp8StaticTensorSym", None, FLOAT8 | {"strategy": "tensor"}),
    ("float-quantized", "kFp8StaticChannelSym", None, FLOAT8 | {"strategy": "channel"}),
    (
        "float-quantized",
        "kFp8Static128BlockSym",
        None,
        FLOAT8 | {"strategy": "block", "block_structure": [128, 128]},
    ),
    ("int-quantized", "kInt8StaticTensorSym", None, {"num_bits": 8, "strategy": "tensor"}),
    ("int-quantized", "kInt8StaticChannelSym", None, {"num_bits": 8, "strategy": "channel"}),
    ("pack-quantized", "kInt4Static", -1, INT4 | {"strategy": "channel"}),
    ("pack-quantized", "kInt4Static", 128, INT4 | {"strategy": "group", "group_size": 128}),
    ("pack-quantized", "kInt4Static32", 32, INT4 | {"strategy": "group", "group_size": 32}),
    (
        "pack-quantized",
        "kInt4Static32Asym",
        32,
        INT4 | {"strategy": "group", "group_size": 32, "symmetric": False},
    ),
    (
        "pack-quantized",
        "kInt8Static",
        64,
        {"num_bits": 8, "strategy": "group", "group_size": 64},
    ),
    (
        "nvfp4-pack-quantized",
        "kNvfp4Static",
        None,
        {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16},
    ),
    (
        "mxfp4-pack-quantized",
        "kMxfp4Static",
        None,
        {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32},
    ),
    (
        "mxfp6-pack-quantized",
        "kMxfp6E2M3Static",
        None,
        {"num_bits": 6, "type": "float", "strategy": "group", "group_size": 32},
    ),
    ("mxfp8-quantized", "kMxfp8Static", None, FLOAT8 | {"strategy": "group", "group_size": 32}),
]
"""Its format, our key, the group size, and its QuantizationArgs."""

KERNELS = {
    "fp8": "TritonExperts",
    "int8": "TritonExperts",
    "int4": "TritonWNA16Experts",
    "uint8": "TritonWNA16Experts",
    "nvfp4": "Nvfp4QuantizationEmulationTritonExperts",
    "mxfp4": "OAITritonExperts",
    "mxfp6_e2m3": "OCP_MXQuantizationEmulationTritonExperts",
    "mxfp8": "Mxfp8EmulationTritonExperts",
}


@pytest.fixture(scope="module")
def compress():
    """(format, arguments, weight [N, K] and how we quantize it) -> what a checkpoint stores."""
    compressors = pytest.importorskip("compressed_tensors.compressors")
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    def compressed(name, arguments, w, ours, fmt):
        scale = decode_e8m0(ours.scale) if fmt.startswith("mx") else ours.scale
        state = {"weight": w, "weight_scale": scale.float() if fmt == "nvfp4" else scale}
        if fmt.startswith("mx"):
            arguments = arguments | {"scale_dtype": torch.uint8}
        if ours.scale_2 is not None:
            state["weight_global_scale"] = 1 / ours.scale_2
        if ours.zero_point is not None:
            # Its integers have signs.
            state["weight_zero_point"] = (ours.zero_point.to(torch.int16) - 8).to(torch.int8)
        scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**arguments))
        return compressors.BaseCompressor.get_value_from_registry(name).compress(state, scheme)

    return compressed


@pytest.mark.parametrize(("name", "key", "group_size", "arguments"), CASES)
def test_its_checkpoints_are_read_bit_for_bit(compress, name, key, group_size, arguments):
    key = NAMED_KEYS[key]
    fmt = quantization_format(key)
    generator = torch.Generator().manual_seed(0)
    layers = {}
    for weight, shape in {"w13": (2, 256, 128), "w2": (2, 128, 128)}.items():
        layers[weight] = torch.randn(shape, generator=generator)
    ours = {
        weight: [quantize_weight(expert, key, group_size) for expert in w]
        for weight, w in layers.items()
    }
    stored = {
        weight: [
            compress(name, arguments, expert, quantized, fmt)
            for expert, quantized in zip(layers[weight], ours[weight], strict=True)
        ]
        for weight in layers
    }

    def stacked(weight, tensor):
        found = [expert[tensor] for expert in stored[weight] if tensor in expert]
        return torch.stack(found) if found else None

    fields = {}
    for weight in layers:
        packed = stacked(weight, "weight_packed")
        fields[weight] = stacked(weight, "weight") if packed is None else packed
        fields[f"{weight}_scale"] = stacked(weight, "weight_scale")
        fields[f"{weight}_zp"] = stacked(weight, "weight_zero_point")
        if fmt == "nvfp4":
            # It divides by its second scale; that which multiplies is taken from our side, since
            # the reciprocal of a reciprocal need not be the number.
            fields[f"{weight}_scale_2"] = torch.stack([e.scale_2 for e in ours[weight]])
    kernel = KERNELS[fmt]
    converted = convert_to_kernel_format(kernel, LayerWeights(**fields), key)
    for weight in layers:
        parts = [
            None if part[0] is None else torch.stack(part)
            for part in zip(*ours[weight], strict=True)
        ]
        if parts[1].shape == (2, 1):  # one scale per expert
            parts[1] = parts[1].flatten()
        expected = dequantize_weight(QuantizedWeight(*parts), key, torch.float64)
        assert torch.equal(values(converted, weight, kernel), expected)
        if fields[weight].dtype == parts[0].dtype:
            # Stored as we store them, down to the bits that have the same value, as -0.
            assert torch.equal(fields[weight].view(torch.uint8), parts[0].view(torch.uint8))


@pytest.mark.parametrize("key", ["kInt4Static", "kInt4StaticAsym"])
def test_its_converter_reads_autoawq_alike(key):
    converters = pytest.importorskip("compressed_tensors.entrypoints.convert.converters")
    layer = random_layer(FusedMoEConfig(2, 2, 128, 64), NAMED_KEYS[key], group_size=32)
    awq, theirs = checkpoint(layer, "auto_awq"), checkpoint(layer, "compressed_tensors")
    converter = converters.AutoAWQConverter(
        group_size=32, zero_point=key.endswith("Asym"), ignore=()
    )
    for name in ("w13", "w2"):
        for expert in range(2):
            parts = {"qweight": name, "qzeros": f"{name}_zp", "scales": f"{name}_scale"}
            tensors = {
                f"m.{part}": getattr(awq, field)[expert]
                for part, field in parts.items()
                if getattr(awq, field) is not None
            }
            converted = converter.process(tensors)
            assert torch.equal(converted["m.weight_packed"], getattr(theirs, name)[expert])
            assert torch.equal(
                converted["m.weight_scale"], getattr(theirs, f"{name}_scale")[expert]
            )
            if theirs.w13_zp is not None:
                zeros = getattr(theirs, f"{name}_zp")[expert]
                assert torch.equal(converted["m.weight_zero_point"], zeros)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dim", [0, 1])
def test_its_words_are_ours(bits, dim):
    helpers = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    from moe_kernels.quantization.packing import pack_words, unpack_words

    codes = torch.randint(0, 2**bits, (64, 128), dtype=torch.uint8)
    signed = (codes.to(torch.int16) - 2 ** (bits - 1)).to(torch.int8)
    words = helpers.pack_to_int32(signed, bits, packed_dim=dim)
    assert torch.equal(pack_words(codes, bits, dim), words)
    assert torch.equal(unpack_words(words, bits, dim), codes)
    assert torch.equal(helpers.unpack_from_int32(words, bits, signed.shape, dim), signed)
