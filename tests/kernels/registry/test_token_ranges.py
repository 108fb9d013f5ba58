"""Kernels by number of tokens: each call goes to its range, with the right result."""

from __future__ import annotations

import pytest
import torch
from moe_kernels.registry.token_ranges import FusedMoEKernelByNumTokens, bind_by_num_tokens
from moe_kernels.testing import random_layer

from moe_rules.vocabulary.layer import FusedMoEConfig

CONFIG = FusedMoEConfig(
    num_experts=4, experts_per_token=2, hidden_dim=32, intermediate_size=32, in_dtype="fp32"
)
NAMES = [(1, "CPUUnquantizedExperts"), (8, "X86CPUUnquantizedExperts")]


@pytest.mark.parametrize(
    ("num_tokens", "name"),
    [(0, NAMES[0][1]), (1, NAMES[0][1]), (7, NAMES[0][1]), (8, NAMES[1][1]), (99, NAMES[1][1])],
)
def test_the_range_decides(num_tokens: int, name: str) -> None:
    kernel = bind_by_num_tokens(NAMES, CONFIG)
    assert type(kernel.kernel_for(num_tokens).experts).__name__ == name


@pytest.mark.parametrize("num_tokens", [3, 8])
def test_results_are_those_of_the_layer(num_tokens: int) -> None:
    layer = random_layer(CONFIG, num_tokens=num_tokens)
    kernel = bind_by_num_tokens(NAMES, CONFIG, layer.quant_config)
    torch.testing.assert_close(
        kernel.apply(**layer.arguments()).double(), layer.reference(), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("firsts", [[], [2], [1, 1], [1, 9, 8]])
def test_ranges_must_ascend_from_one(firsts: list[int]) -> None:
    kernel = bind_by_num_tokens(NAMES[:1], CONFIG).kernel_for(1)
    with pytest.raises(ValueError, match="ascend from 1"):
        FusedMoEKernelByNumTokens([(first, kernel) for first in firsts])
