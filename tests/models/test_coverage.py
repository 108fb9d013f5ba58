"""Every architecture of vLLM 0.33.0's registry, and every MoE class of transformers 5.24.0.

``coverage/vllm_registry.json`` and ``coverage/transformers_moe.json`` have their names; each file
is written by the script beside it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moe_rules.models import load_tables
from moe_rules.reporting import coverage
from moe_rules.reporting.generated import page

DATA = Path(__file__).parent / "coverage"
REGISTRY: dict[str, Any] = json.loads((DATA / "vllm_registry.json").read_bytes())
CLASSES: dict[str, Any] = json.loads((DATA / "transformers_moe.json").read_bytes())
TABLES = load_tables()
ROWS = TABLES.architectures["architectures"]
BACKEND = "transformers_backend"
"""vLLM's own names for transformers' models, which no checkpoint has."""

SHARED = {
    "Qwen3_5ForCausalLM": "its layers are dense where the model type is not that of a MoE model",
    "Qwen3_5ForConditionalGeneration": "the same",
    "PanguEmbeddedForCausalLM": "it shares its layers with a MoE model",
    "Cosmos3EdgeForConditionalGeneration": "it shares its layers with a MoE model",
    "EmbeddingGemma2Model": "it shares its layers with a MoE model",
    "Exaone4_5_MTP": "it shares its layers with a MoE model",
    "GlmOcrMTPModel": "it shares its layers with a MoE model",
}
"""Dense models whose class refers to code that builds MoE layers."""
MODELS = [name for name, found in REGISTRY["models"].items() if found["table"] != BACKEND]


@pytest.mark.parametrize("name", MODELS)
def test_an_architecture_of_vllm_is_in_one_table(name: str) -> None:
    does = set(REGISTRY["models"][name]["does"])
    kind = coverage.kind_of(name, TABLES)
    if kind == "no MoE layers":
        assert does <= {"wraps"} or name in SHARED
    elif kind == "no oracle":
        assert does == {"fused_experts"}
    elif kind == "draft":
        assert "moe" in does
    else:
        assert kind == "in the tables"
        assert does & {"moe", "wraps"}


@pytest.mark.parametrize("name", REGISTRY["gone"])
def test_an_architecture_that_vllm_dropped_is_in_one_table(name: str) -> None:
    assert coverage.kind_of(name, TABLES) is not None


@pytest.mark.parametrize(
    "name", sorted({name for one in CLASSES["classes"].values() for name in one["architectures"]})
)
def test_an_architecture_of_transformers_is_in_one_table(name: str) -> None:
    assert coverage.kind_of(name, TABLES) is not None


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_of_vllm_or_of_transformers(name: str) -> None:
    built = {one for found in CLASSES["classes"].values() for one in found["architectures"]}
    assert name in REGISTRY["models"] or name in built


def test_no_name_is_in_two_tables() -> None:
    tables = coverage.tables_of(TABLES)
    names = [name for kind in tables.values() for name in kind]
    assert len(names) == len(set(names))


def test_the_counts_are_those_of_the_document() -> None:
    document = page("coverage.md").read_text(encoding="utf-8")
    assert document == coverage.document()
