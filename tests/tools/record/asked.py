"""Cases of a made-up release, which :mod:`tests.tools.record.stand_in` answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moe_rules.conformance.writing import question_of
from moe_rules.machines.machine import load_machine
from moe_rules.selectors.facts import layer_facts
from moe_rules.vocabulary.facts import REQUEST_DEFAULTS
from moe_rules.vocabulary.layer import FusedMoEConfig
from moe_rules.vocabulary.quant_keys import NAMED_KEYS

STAND_IN = Path(__file__).parent / "stand_in"
"""The folder with a package vllm that is no vLLM."""

RELEASE = "0.0.1"
MACHINE = "cpu-x86"


def case(
    oracle: str = "fp8",
    software: dict[str, bool] | None = None,
    environ: dict[str, str] | None = None,
    **layer: Any,
) -> dict[str, Any]:
    """One case on an x86 CPU: a layer of 8 experts, of which some facts are others."""
    sizes = {"num_experts": 8, "experts_per_token": 2, "hidden_dim": 2048, "intermediate_size": 512}
    key = NAMED_KEYS["kFp8StaticTensorSym"]
    facts = {
        **layer_facts(FusedMoEConfig(**{**sizes, **layer})),
        **REQUEST_DEFAULTS,
        "weight_key": key,
        "activation_key": None,
        "allow_vllm_cutlass": False,
    }
    machine = load_machine("x86").with_software(**(software or {}))
    return question_of(oracle, machine, facts, environ or {}, "grid", {})
