from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_rules.models.routing import routing_method
from moe_rules.vocabulary.facts import ROUTING_METHODS


@pytest.mark.parametrize(
    ("scoring", "renormalize", "bias", "groups", "expected"),
    [
        ("softmax", True, False, None, "RenormalizeNaive"),
        ("softmax", False, False, None, "Default"),
        ("softmax", True, True, None, "Unspecified"),
        ("sigmoid", True, False, None, "SigmoidRenorm"),
        ("sigmoid", False, False, None, "Sigmoid"),
        ("sigmoid", True, True, 8, "DeepSeekV3"),
        ("sigmoid", True, True, 1, "DeepSeekV3"),
        ("sigmoid", True, True, None, "MiniMax2"),
        ("sigmoid", False, True, 8, "Unspecified"),
        ("sqrtsoftplus", True, True, None, "DeepseekV4"),
    ],
)
def test_method_follows_from_the_router(
    scoring: str, renormalize: bool, bias: bool, groups: int | None, expected: str
) -> None:
    method = routing_method(scoring, renormalize=renormalize, correction_bias=bias, groups=groups)
    assert method == expected


@given(st.text(), st.booleans(), st.booleans(), st.none() | st.integers(0, 16))
def test_every_method_is_a_known_one(
    scoring: str, renormalize: bool, bias: bool, groups: int | None
) -> None:
    method = routing_method(scoring, renormalize=renormalize, correction_bias=bias, groups=groups)
    assert method in ROUTING_METHODS
