"""Runs commands in process and gives what a user sees."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from moe_rules.cli import main

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "examples" / "models"


@dataclass(frozen=True)
class Answer:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Answer]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.delenv("MOE_RULES_PATH", raising=False)
    monkeypatch.delenv("MOE_RULES_BACKEND", raising=False)

    def run(*words: object) -> Answer:
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    return run


@pytest.fixture
def model() -> Path:
    """An unquantized model with one kind of MoE layer."""
    return MODELS / "Qwen3-30B-A3B.json"


LAYER = [
    "--set", "num_experts=8", "--set", "experts_per_token=2",
    "--set", "hidden_dim=256", "--set", "intermediate_size=512",
]  # fmt: skip
"""A small layer, stated fact by fact."""
