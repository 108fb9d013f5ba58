"""vLLM's ``MarlinExperts``: weights of INT4, INT8 and MXFP4 with activations as they are.

Its code is for compute capability 8.0: on newer GPUs the driver compiles it, which takes a while at
the first call.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from moe_kernels.benchmark.peers import PeerUnavailableError, Run
from moe_kernels.testing import RandomLayer

from benchmarks.peers import vllm, vllm_triton


@dataclass(frozen=True)
class _Converted:
    """A layer as Marlin has it; ``rows`` and ``hidden`` are padded."""

    w13: torch.Tensor
    w2: torch.Tensor
    scheme: Any
    rows: int
    hidden: int


def _integers(layer: RandomLayer) -> _Converted:
    """Symmetric INT4 and INT8 in groups of columns."""
    quant = layer.quant_config
    bits = 4 if quant.weight_format == "int4" else 8
    repack = vllm.module("_custom_ops").gptq_marlin_repack
    permute = vllm.quantization("marlin_utils").marlin_moe_permute_scales
    weights, scales = [], []
    for values, scale in ((layer.w13, quant.w13_scale), (layer.w2, quant.w2_scale)):
        assert scale is not None
        size_n, size_k = values.shape[1], values.shape[2] * (8 // bits)
        words = values.contiguous().view(torch.int32)
        size = {"size_k": size_k, "size_n": size_n}
        expert = [repack(w.t().contiguous(), num_bits=bits, **size) for w in words]
        weights.append(torch.stack(expert))
        transposed = scale.to(torch.bfloat16).transpose(1, 2).contiguous()
        scales.append(permute(s=transposed, group_size=size_k // scale.shape[2], **size))
    scheme = vllm_triton.integer_groups(layer, w1_scale=scales[0], w2_scale=scales[1])
    return _Converted(*weights, scheme, layer.w13.shape[1], layer.w2.shape[1])


def _mxfp4(layer: RandomLayer) -> _Converted:
    """MXFP4 with the hidden size padded to 256 and the intermediate size to 128."""
    quant = layer.quant_config
    assert quant.w13_scale is not None
    assert quant.w2_scale is not None
    hidden, intermediate = layer.w2.shape[1], layer.w13.shape[1] // 2
    more_hidden, more = -hidden % 256, -intermediate % 128
    if more and layer.moe_config.activation != "swigluoai":
        raise PeerUnavailableError("rows of gate and up are padded only where they alternate")

    def padded(tensor: torch.Tensor, columns: int, rows: int) -> torch.Tensor:
        return F.pad(tensor, (0, columns, 0, rows))

    tensors = [
        padded(layer.w13, more_hidden // 2, 2 * more),
        padded(layer.w2, more // 2, more_hidden),
        padded(quant.w13_scale, more_hidden // 32, 2 * more),
        padded(quant.w2_scale, more // 32, more_hidden),
        None if quant.w13_bias is None else F.pad(quant.w13_bias, (0, 2 * more)),
        None if quant.w2_bias is None else F.pad(quant.w2_bias, (0, more_hidden)),
    ]
    convert = vllm.quantization("marlin_utils_fp4").prepare_moe_mxfp4_layer_for_marlin
    w13, w2, *rest = convert(SimpleNamespace(params_dtype=torch.bfloat16), *tensors)
    scheme = vllm.moe("config").mxfp4_w4a16_moe_quant_config(*rest)
    return _Converted(w13, w2, scheme, 2 * (intermediate + more), hidden + more_hidden)


def bind(layer: RandomLayer) -> Run | None:
    """The experts with weights converted as when vLLM loads them."""
    quant = layer.quant_config
    if quant.weight_key is None or quant.activation_key is not None or quant.w13_zp is not None:
        return None
    if layer.moe_config.in_dtype != "bf16":
        return None
    if quant.weight_format not in ("int4", "uint8", "mxfp4"):
        return None
    if quant.weight_format != "mxfp4" and quant.w13_bias is not None:
        return None  # no such checkpoints
    converted = _mxfp4(layer) if quant.weight_format == "mxfp4" else _integers(layer)
    intermediate = converted.rows // 2
    config = vllm.MoEConfig(
        layer, hidden_dim=converted.hidden, intermediate_size_per_partition=intermediate
    )
    experts = vllm.moe("experts.marlin_moe").MarlinExperts(config, converted.scheme)
    # Its experts count rows of w2, not of w13.
    sizes = intermediate, converted.hidden
    return vllm.call(experts, layer, (converted.w13, converted.w2), sizes)


PEERS = {"marlin": vllm.compiled_peer(bind, "Marlin", "MarlinExperts")}
