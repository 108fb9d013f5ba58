"""What the packaged tables select for plain layers: a line per deployment."""

from __future__ import annotations

from dataclasses import replace

import pytest

from moe_rules import FusedMoEConfig, select_backend
from moe_rules.vocabulary.quant_keys import NAMED_KEYS

LAYER = FusedMoEConfig(
    num_experts=128,
    experts_per_token=8,
    hidden_dim=2048,
    intermediate_size=768,
    routing_method="Renormalize",
)
KEYS = {
    "unquantized": (None, None),
    "fp8": ("kFp8Static128BlockSym", "kFp8Dynamic128Sym"),
    "int8": ("kInt8StaticChannelSym", "kInt8DynamicTokenSym"),
    "int_wna16": ("kInt4Static", None),
    "mxfp4": ("kMxfp4Static", None),
    "mxfp4_deepseek_v4": ("kMxfp4Static", None),
    "mxfp8": ("kMxfp8Static", "kMxfp8Dynamic"),
    "nvfp4": ("kNvfp4Static", "kNvfp4Dynamic"),
    "w4a8": ("kInt4Static", "kFp8DynamicTokenSym"),
    "w4a8_int8": ("kInt4W4A8StaticChannelSym", "kInt8DynamicTokenSym"),
}


def backend_of(oracle: str, machine: str, layer: FusedMoEConfig) -> str | None:
    weight, activation = (None if name is None else NAMED_KEYS[name] for name in KEYS[oracle])
    decision = select_backend(
        oracle,
        layer,
        weight,
        activation,
        machine=machine,
        environ={},
        allow_vllm_cutlass=False,
    )
    return decision.backend


@pytest.mark.parametrize(
    ("oracle", "machine", "backend"),
    [
        ("unquantized", "h100", "TRITON"),
        ("unquantized", "b200", "FLASHINFER_TRTLLM"),
        ("unquantized", "mi300x", "TRITON"),
        ("unquantized", "x86", "CPU"),
        ("fp8", "h100", "TRITON"),
        ("fp8", "b200", "FLASHINFER_TRTLLM"),
        ("int8", "h100", "TRITON"),
        ("int8", "arm", "CPU"),
        ("int_wna16", "b200", "MARLIN"),
        ("mxfp4", "xpu", "XPU"),
        ("mxfp8", "b200", "FLASHINFER_TRTLLM"),
        ("nvfp4", "b200", "FLASHINFER_TRTLLM"),
        ("w4a8", "h100", "CUTLASS"),
    ],
)
def test_selected(oracle: str, machine: str, backend: str) -> None:
    assert backend_of(oracle, machine, LAYER) == backend


@pytest.mark.parametrize(
    ("oracle", "machine", "request_", "backend"),
    [
        ("unquantized", "b200", "triton", "TRITON"),
        ("fp8", "h100", "marlin", "MARLIN"),
        ("int8", "h100", "humming", "HUMMING"),
    ],
)
def test_asked_for_by_name(oracle: str, machine: str, request_: str, backend: str) -> None:
    assert backend_of(oracle, machine, replace(LAYER, moe_backend=request_)) == backend
