"""Recorded cases as vLLM's own objects. Import after :func:`tools.record.simulation.start`."""

from __future__ import annotations

import dataclasses
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

from tools.record.places import CHECKPOINTS, ORACLES, find

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

SELECTORS = {name: f"{one.module}:{one.select}" for name, one in ORACLES.items()}
"""Each oracle's selector, as module:function of vLLM's oracles and of moe_rules'."""


class LacksError(Exception):
    """The release has no such fact, so that there is no such deployment."""


def selector(oracle: str, package: str) -> Any:
    """The function that selects, of the modules in ``package``."""
    module, _, name = SELECTORS[oracle].partition(":")
    return getattr(importlib.import_module(f"{package}.{module}"), name)


def quant_key(data: Mapping[str, Any] | None) -> Any:
    """The key of vLLM, rebuilt from its value: the name is not read."""
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
    """The configuration that vLLM has of a case's layer.

    A field that the release does not have is left out where it says nothing. Raises LacksError
    where it says something, and what vLLM's constructors raise.
    """
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
        **_known(FusedMoEConfig, fields),
        num_local_experts=max(1, fields["num_experts"] // parallel["ep_size"]),
        num_logical_experts=fields["num_experts"],
        device="cpu",
        moe_parallel_config=FusedMoEParallelConfig(
            **_known(FusedMoEParallelConfig, parallel), **ranks
        ),
    )


def _known(config: type, fields: Mapping[str, Any]) -> dict[str, Any]:
    known = {field.name for field in dataclasses.fields(config)}
    for name in fields.keys() - known:
        if fields[name] not in (None, False):
            raise LacksError(f"{config.__name__} has no {name}")
    return {name: value for name, value in fields.items() if name in known}


def checkpoint(data: Mapping[str, Any]) -> Any:
    """The object that vLLM's integer methods hand on as ``quant_config``.

    Raises LacksError for a format that the release does not have.
    """
    cls = find((CHECKPOINTS[data["kind"]][0],))
    if cls is None:
        raise LacksError(f"no checkpoints of {data['kind']}")
    bits, group_size = data.get("num_bits"), data.get("group_size")
    match data["kind"]:
        case "compressed_tensors":
            return cls(type="int", **{n: v for n, v in data.items() if n != "kind"})
        case "auto_awq":
            return cls(bits, group_size, data["zero_point"], False)
        case "auto_gptq":
            config = cls(bits, group_size, False, data["symmetric"], False, {}, {})
            config.desc_act = data["desc_act"]  # refused by the constructor, tested by the oracle
            return config
        case "moe_wna16":
            return cls("gptq", bits, group_size, data["zero_point"], False, None, {})
    return cls({})


def arguments(case: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What vLLM's quantization methods call the selector of a case's oracle with."""
    said = {
        **case["options"],
        "weight_key": quant_key(case["weight"]),
        "activation_key": quant_key(case["activation"]),
    }
    takes = ORACLES[case["oracle"]].takes
    if "quant_config" in takes:
        said["quant_config"] = checkpoint(said["quant_config"])
    return (layer(case["moe"]),), {name: said[name] for name in takes if name in said}


def engine(case: Mapping[str, Any]) -> dict[str, Any]:
    """The "runtime" of a case, for :meth:`tools.record.simulation.World.set`."""
    runtime = dict(case["runtime"])
    runtime["moe_activation_override"] = quant_key(runtime.get("moe_activation_override"))
    return runtime
