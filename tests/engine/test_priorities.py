"""What the packaged tables select for plain layers: a line per deployment."""

from __future__ import annotations

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
    "nvfp4": ("kNvfp4Static", "kNvfp4Dynamic"),
}


@pytest.mark.parametrize(
    ("oracle", "machine", "backend"),
    [
        ("unquantized", "h100", "TRITON"),
        ("unquantized", "b200", "FLASHINFER_TRTLLM"),
        ("unquantized", "mi300x", "TRITON"),
        ("unquantized", "x86", "CPU"),
        ("fp8", "h100", "TRITON"),
        ("fp8", "b200", "FLASHINFER_TRTLLM"),
        ("nvfp4", "b200", "FLASHINFER_TRTLLM"),
    ],
)
def test_selected(oracle: str, machine: str, backend: str) -> None:
    weight, activation = (None if name is None else NAMED_KEYS[name] for name in KEYS[oracle])
    decision = select_backend(
        oracle,
        LAYER,
        weight,
        activation,
        machine=machine,
        environ={},
        allow_vllm_cutlass=False,
    )
    assert decision.backend == backend, decision.error
