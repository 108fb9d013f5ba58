"""Regular expressions of checkpoints: as vLLM's package matches them, and never for ever."""

from __future__ import annotations

import pytest

from moe_rules.models import patterns
from moe_rules.models.errors import ConfigValueError, PatternError
from moe_rules.models.patterns import begins, occurs

NAME = "model.layers.0.mlp.experts.0.gate_proj"


def test_where_a_pattern_has_to_match() -> None:
    assert begins(r"model\.layers\.0\.", NAME)
    assert not begins(r"mlp", NAME)
    assert occurs(r"mlp\.experts$|gate_proj$", NAME)


def test_no_pattern() -> None:
    with pytest.raises(PatternError, match="position 0"):
        begins("*experts", NAME)


def test_one_that_python_never_answers() -> None:
    assert not begins(r"(\w+\.?)+X$", NAME)


def test_one_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow:
        def match(self, name: str, timeout: float) -> None:
            raise TimeoutError

    monkeypatch.setattr(patterns, "compiled", lambda pattern: Slow())
    with pytest.raises(ConfigValueError, match="answers within 2 s, not 'slow'"):
        begins("slow", NAME)
