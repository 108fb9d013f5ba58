"""Random layers as checkpoints would store them: the other direction of the conversions."""

import dataclasses

import torch
from moe_kernels.layouts import LayerWeights, convert_to_kernel_format
from moe_kernels.quantization.packing import pack_awq, pack_words, unpack_nibbles
from moe_kernels.quantization.schemes import quantization_format

FORMATS = ("compressed_tensors", "moe_wna16", "auto_gptq", "auto_awq")


def _pack(codes, scale, zeros, bits, checkpoint_format):
    """One weight: codes [E, N, K] (uint8), scale and zero point [E, N, K / g]."""
    if checkpoint_format == "compressed_tensors":
        return (
            pack_words(codes, bits, 2),
            scale,
            zeros if zeros is None else pack_words(zeros, bits, 1),
        )
    if checkpoint_format == "moe_wna16":
        if bits == 8:
            return codes, scale, zeros
        if zeros is not None:
            zeros = zeros[:, ::2] | zeros[:, 1::2] << 4
        return codes[..., ::2] | codes[..., 1::2] << 4, scale, zeros
    codes, scale = codes.transpose(1, 2), scale.transpose(1, 2).contiguous()
    zeros = None if zeros is None else zeros.transpose(1, 2)
    if checkpoint_format == "auto_gptq":
        less_one = None if zeros is None else (zeros.to(torch.int16) - 1) & 2**bits - 1
        return (
            pack_words(codes, bits, 1),
            scale,
            None if zeros is None else pack_words(less_one, bits, 2),
        )
    return pack_awq(codes), scale, None if zeros is None else pack_awq(zeros)


def checkpoint(layer, checkpoint_format="compressed_tensors"):
    """The LayerWeights of ``layer`` before any conversion."""
    config, key = layer.quant_config, layer.quant_config.weight_key
    weights = LayerWeights(layer.w13, layer.w2)
    tensors = {name: getattr(config, name) for name in weights.quant_fields()}
    weights = weights._replace(**tensors | {"weight_key": None})
    fmt = None if key is None else quantization_format(key)
    if fmt not in ("int4", "uint8"):
        return weights
    packed = {}
    for name in ("w13", "w2"):
        values, zeros = getattr(weights, name), getattr(weights, f"{name}_zp")
        codes = unpack_nibbles(values) if fmt == "int4" else values
        scale = getattr(weights, f"{name}_scale")
        bits = 4 if fmt == "int4" else 8
        packed[name], packed[f"{name}_scale"], packed[f"{name}_zp"] = _pack(
            codes, scale, zeros, bits, checkpoint_format
        )
    return weights._replace(**packed)


def converted(layer, kernel_name):
    """``layer`` with its weights as ``kernel_name`` takes them."""
    key = layer.quant_config.weight_key
    weights = convert_to_kernel_format(
        kernel_name, checkpoint(layer), key, dtype=layer.hidden_states.dtype
    )
    return dataclasses.replace(
        layer,
        quant_config=dataclasses.replace(layer.quant_config, **weights.quant_fields()),
        w13=weights.w13,
        w2=weights.w2,
    )
