"""Recorded cases as vLLM's own objects. Import after :func:`tests.vllm.simulation.start`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from vllm.model_executor.layers.fused_moe.activation import MoEActivation
from vllm.model_executor.layers.fused_moe.config import (
    FusedMoEConfig,
    FusedMoEParallelConfig,
    RoutingMethodType,
)
from vllm.model_executor.layers.quantization.utils import quant_utils
from vllm.scalar_type import scalar_types

DTYPES = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "uint8": torch.uint8,
    "int8": torch.int8,
    "e8m0": torch.float8_e8m0fnu,
    "fp8_e4m3": quant_utils.FP8_DTYPE,
}
SHAPES = {"tensor": (-1, -1), "token": (1, -1), "channel": (-1, 1)}
QUANTIZATION = "vllm.model_executor.layers.quantization"

SELECTORS = {
    "unquantized": "unquantized:select_unquantized_moe_backend",
    "fp8": "fp8:select_fp8_moe_backend",
    "int8": "int8:select_int8_moe_backend",
    "int_wna16": "int_wna16:select_wna16_moe_backend",
    "mxfp4": "mxfp4:select_mxfp4_moe_backend",
    "mxfp4_deepseek_v4": "mxfp4:select_deepseek_v4_mxfp4_moe_backend",
    "mxfp8": "mxfp8:select_mxfp8_moe_backend",
    "nvfp4": "nvfp4:select_nvfp4_moe_backend",
    "w4a8": "w4a8:select_w4a8_moe_backend",
    "w4a8_int8": "w4a8_int8:select_w4a8_int8_moe_backend",
}
"""Each oracle's selector, as module:function of vLLM's oracles and of this package's."""


def selector(oracle: str, package: str) -> Any:
    module, _, name = SELECTORS[oracle].partition(":")
    return getattr(importlib.import_module(f"{package}.{module}"), name)


def quant_key(data: Mapping[str, Any] | None) -> Any:
    if data is None:
        return None
    dtype = DTYPES.get(data["dtype"]) or getattr(scalar_types, data["dtype"])
    return quant_utils.QuantKey(
        dtype, _scale(data["scale"]), _scale(data["scale2"]), data["symmetric"]
    )


def _scale(data: Mapping[str, Any] | None) -> Any:
    if data is None:
        return None
    shape = data["group_shape"]
    shape = quant_utils.GroupShape(*(SHAPES[shape] if isinstance(shape, str) else shape))
    return quant_utils.ScaleDesc(DTYPES[data["dtype"]], data["static"], shape)


def layer(data: Mapping[str, Any]) -> FusedMoEConfig:
    """vLLM's configuration of a case's layer. Raises what its constructor raises."""
    fields = dict(data)
    parallel = fields.pop("parallel")
    fields.pop("intermediate_size_per_partition")
    logits = fields["router_logits_dtype"]
    fields |= {
        "activation": MoEActivation(fields["activation"]),
        "routing_method": RoutingMethodType[fields["routing_method"]],
        "in_dtype": DTYPES[fields["in_dtype"]],
        "router_logits_dtype": None if logits is None else DTYPES[logits],
    }
    ranks = dict.fromkeys(("tp_rank", "pcp_rank", "dp_rank", "ep_rank"), 0)
    return FusedMoEConfig(
        **fields,
        num_local_experts=max(1, fields["num_experts"] // parallel["ep_size"]),
        num_logical_experts=fields["num_experts"],
        device="cpu",
        moe_parallel_config=FusedMoEParallelConfig(**parallel, **ranks),
    )


def checkpoint(data: Mapping[str, Any]) -> Any:
    """The object that vLLM's integer methods hand on as ``quant_config``."""
    kind = data["kind"]
    if kind == "compressed_tensors":
        from compressed_tensors.quantization import QuantizationArgs

        return QuantizationArgs(type="int", **{n: v for n, v in data.items() if n != "kind"})
    if kind == "auto_awq":
        cls = importlib.import_module(f"{QUANTIZATION}.auto_awq").AutoAWQConfig
        return cls(data["num_bits"], data["group_size"], data["zero_point"], False)
    if kind == "auto_gptq":
        cls = importlib.import_module(f"{QUANTIZATION}.auto_gptq").AutoGPTQConfig
        arguments = (data["num_bits"], data["group_size"], False, data["symmetric"], False)
        config = cls(*arguments, {}, {})
        config.desc_act = data["desc_act"]  # refused by the constructor, tested by the oracle
        return config
    if kind == "moe_wna16":
        cls = importlib.import_module(f"{QUANTIZATION}.moe_wna16").MoeWNA16Config
        arguments = (data["num_bits"], data["group_size"], data["zero_point"])
        return cls("gptq", *arguments, False, None, {})
    assert kind == "quark"
    return importlib.import_module(f"{QUANTIZATION}.quark.quark").QuarkConfig({})


def arguments(case: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What vLLM's quantization methods call the selector of a case's oracle with."""
    config = layer(case["moe"])
    weight, activation = quant_key(case["weight"]), quant_key(case["activation"])
    options = dict(case["options"])
    match case["oracle"]:
        case "unquantized" | "mxfp8" | "mxfp4_deepseek_v4":
            return (config,), {}
        case "mxfp4":
            return (config, activation), {}
        case "int_wna16":
            options["quant_config"] = checkpoint(options["quant_config"])
            return (config,), {"weight_key": weight, **options}
    return (config,), {"weight_key": weight, "activation_key": activation, **options}


def engine(case: Mapping[str, Any]) -> dict[str, Any]:
    """The "runtime" of a case, for :meth:`tests.vllm.simulation.World.set`."""
    runtime = dict(case["runtime"])
    runtime["moe_activation_override"] = quant_key(runtime.get("moe_activation_override"))
    return runtime
