"""The constants of activations: what 0 means."""

from __future__ import annotations

import pytest
from moe_kernels.activation import activation_parameters
from moe_kernels.quant_config import FusedMoEQuantConfig

from moe_rules.vocabulary.layer import FusedMoEConfig

SIZES = {"num_experts": 4, "experts_per_token": 2, "hidden_dim": 64, "intermediate_size": 32}


@pytest.mark.parametrize(
    ("limit", "expected"), [(None, None), (0.0, None), (-1.0, None), (7.0, 7.0)]
)
def test_a_limit_that_is_not_above_zero_clamps_nothing(
    limit: float | None, expected: float | None
) -> None:
    layer = FusedMoEConfig(**SIZES, swiglu_limit=limit)
    assert activation_parameters("silu", layer, FusedMoEQuantConfig()).limit == expected


@pytest.mark.parametrize(("beta", "expected"), [(None, None), (0.0, None), (2.0, 2.0)])
def test_a_linear_beta_that_is_not_above_zero_is_none(
    beta: float | None, expected: float | None
) -> None:
    layer = FusedMoEConfig(
        **SIZES,
        activation="situ",
        activation_situ_beta=1.0,
        activation_situ_linear_beta=beta,
    )
    assert activation_parameters("situ", layer, FusedMoEQuantConfig()).situ_linear_beta == expected
