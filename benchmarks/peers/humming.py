"""Humming's grouped products of weights alone, in vLLM's experts: INT4, INT8 and MXFP4."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import torch
from moe_kernels.benchmark.peers import Run
from moe_kernels.testing import RandomLayer

from benchmarks.peers import vllm
from benchmarks.peers.sources import source_of

VERSION = "0.1.19"


def _package(name: str) -> Any:
    folder = str(source_of("humming_kernels"))
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module(f"humming.{name}")


def _schema(layer: RandomLayer) -> Any:
    """How the weights are quantized, as Humming describes it."""
    dtypes, schema, quant = _package("dtypes"), _package("schema"), layer.quant_config
    if quant.weight_format == "mxfp4":
        return schema.Mxfp4WeightSchema()
    assert quant.w13_scale is not None
    return schema.HummingWeightSchema(
        b_dtype=dtypes.DataType.from_str("uint4" if quant.weight_format == "int4" else "uint8"),
        bs_dtype=dtypes.bfloat16,
        weight_scale_group_size=layer.moe_config.hidden_dim // quant.w13_scale.shape[2],
    )


def _module(layer: RandomLayer) -> torch.nn.Module:
    """The layer's weights as vLLM's loading leaves them on its module."""
    quant, module = layer.quant_config, torch.nn.Module()
    integers = quant.weight_format != "mxfp4"
    for name in ("w13", "w2"):
        values, scale = getattr(layer, name), getattr(quant, f"{name}_scale")
        bias = getattr(quant, f"{name}_bias")
        parts = {
            "weight": values.contiguous().view(torch.int32) if integers else values,
            "weight_scale": scale.to(torch.bfloat16) if integers else scale,
        }
        if bias is not None:
            parts["bias"] = bias.to(torch.bfloat16)
        for part, tensor in parts.items():
            setattr(module, f"{name}_{part}", torch.nn.Parameter(tensor, requires_grad=False))
    return module


def bind(layer: RandomLayer) -> Run | None:
    """Indexed experts, or grouped ones where vLLM takes them: with expert parallelism."""
    quant = layer.quant_config
    if quant.weight_key is None or quant.activation_key is not None:
        return None
    if quant.weight_format not in ("int4", "uint8", "mxfp4") or quant.w13_zp is not None:
        return None
    if layer.moe_config.in_dtype != "bf16":
        return None
    weight_schema = _schema(layer)
    conversion, experts = vllm.quantization("humming.moe"), vllm.moe("experts.fused_humming_moe")
    module: Any = _module(layer)
    module.moe_config = config = vllm.MoEConfig(layer)
    module.params_dtype = torch.bfloat16
    module.layer_name = "layer"
    conversion.convert_to_humming_moe_kernel_format(
        module,
        weight_schema=weight_schema,
        input_schema=_package("schema").HummingInputSchema(),
    )
    scheme = conversion.get_humming_moe_quant_config(module)
    grouped = experts.get_humming_moe_gemm_type(config) == "grouped_contiguous"
    kind = experts.HummingGroupedExperts if grouped else experts.HummingIndexedExperts
    weights = module.w13_weight, module.w2_weight
    return vllm.call(kind(config, scheme), layer, weights, (layer.w13.shape[1], layer.w2.shape[1]))


PEERS = {
    "humming": vllm.compiled_peer(
        bind, f"Humming {VERSION}", "HummingIndexedExperts", "HummingGroupedExperts"
    ),
}
