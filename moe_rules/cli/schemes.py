"""What tables compare: machines, and checkpoint formats, a quantization_config of each kind.

The blocks are what the tools of each format write, without the layers they leave out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moe_rules.cli.errors import UserError

Block = dict[str, Any]

MACHINES = ("a100", "l40s", "h100", "b200", "rtx5090", "mi300x", "mi350x", "xpu", "x86-amx", "arm")
"""Machines that are compared if none is named."""

_OWN = ("quantization_config", "compression_config")
"""Where a configuration says its own format."""


def scheme_called(name: str) -> Block | None:
    """The block of a format. Raises UserError for one that does not exist."""
    from moe_rules.vocabulary.fact_values import did_you_mean

    if name not in SCHEMES:
        raise UserError(
            f"--scheme {name}: there is no such checkpoint format"
            f"{did_you_mean(name, SCHEMES)} (known: {', '.join(SCHEMES)})"
        )
    return SCHEMES[name]


def in_scheme(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A model's configuration as a checkpoint in another format would have it. Raises UserError."""
    block = scheme_called(name)

    def without(fields: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: without(value) if isinstance(value, Mapping) else value
            for name, value in fields.items()
            if name not in _OWN
        }

    return {**without(config), **({} if block is None else {"quantization_config": block})}


def _compressed_tensors(form: str, weights: Block, activations: Block | None) -> Block:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": activations}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


def _scale(kind: str, bits: int, strategy: str, group_size: int | None = None) -> Block:
    return {
        "type": kind,
        "num_bits": bits,
        "strategy": strategy,
        "group_size": group_size,
        "symmetric": True,
        "dynamic": False,
    }


_PER_TOKEN = {"strategy": "token", "symmetric": True, "dynamic": True}

SCHEMES: dict[str, Block | None] = {
    "unquantized": None,
    "fp8-block": {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "weight_block_size": [128, 128],
    },
    "fp8-tensor": {"quant_method": "fp8", "activation_scheme": "static"},
    "fp8-channel": _compressed_tensors(
        "float-quantized",
        _scale("float", 8, "channel"),
        {"type": "float", "num_bits": 8, **_PER_TOKEN},
    ),
    "int8-w8a8": _compressed_tensors(
        "int-quantized", _scale("int", 8, "channel"), {"type": "int", "num_bits": 8, **_PER_TOKEN}
    ),
    "int4-gptq": {
        "quant_method": "gptq",
        "bits": 4,
        "group_size": 128,
        "desc_act": False,
        "sym": True,
        "checkpoint_format": "gptq",
    },
    "int4-awq": {
        "quant_method": "awq",
        "bits": 4,
        "group_size": 128,
        "zero_point": True,
        "version": "gemm",
    },
    "int4-w4a16": _compressed_tensors("pack-quantized", _scale("int", 4, "group", 128), None),
    "mxfp4": {"quant_method": "mxfp4"},
    "mxfp8": {"quant_method": "modelopt", "quant_algo": "MXFP8", "ignore": []},
    "nvfp4": {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16, "ignore": []},
    "w4a8": _compressed_tensors(
        "pack-quantized",
        _scale("int", 4, "group", 128),
        {"type": "float", "num_bits": 8, **_PER_TOKEN},
    ),
    "w4a8-int8": _compressed_tensors(
        "pack-quantized",
        _scale("int", 4, "group", 128),
        {"type": "int", "num_bits": 8, **_PER_TOKEN},
    ),
}
"""quantization_config by the name that ``--scheme`` takes; None: unquantized."""
