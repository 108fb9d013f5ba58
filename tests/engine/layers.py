"""A layer, and how the small rule set is asked about it."""

from __future__ import annotations

from moe_rules.engine.decision import Decision
from moe_rules.selectors.selector import Selector
from moe_rules.vocabulary.layer import FusedMoEConfig
from tests.conftest import SMALL

LAYER = FusedMoEConfig(
    num_experts=8, experts_per_token=2, hidden_dim=64, intermediate_size=128, activation="silu"
)

VARIANTS = """
platform: cuda
oracles:
  mxfp4:
    assume:
      - {set: {weight_key: kMxfp4Static}}
      - when: {activation_key: none, moe_activation_override: {not: none}}
        set: {activation_key: {value_of: moe_activation_override}}
    variants: {by: activation_key, fallback: none}
    priority: [BF16, MXFP8, ANY]
    requests:
      both: [BF16, MXFP8]
      mxfp8: MXFP8
      all: [{use: [MXFP8, BF16], variants: all}]
    backends:
      BF16: {kernels: [Bf16Experts], assume: {activation_key: none}}
      MXFP8: {kernels: [Mxfp8Experts], assume: {activation_key: kMxfp8Dynamic}}
      ANY: {kernels: [AnyExperts]}
kernels:
  Bf16Experts: {schemes: [{weight: kMxfp4Static, activation: none}]}
  Mxfp8Experts: {schemes: [{weight: kMxfp4Static, activation: kMxfp8Dynamic}]}
  AnyExperts: {schemes: [{weight: kMxfp4Static, activation: any}]}
"""
"""A rule set whose oracle has variants."""


def layer(**changes: object) -> FusedMoEConfig:
    return FusedMoEConfig(**{**LAYER.__dict__, **changes})  # type: ignore[arg-type]


def select(selector: Selector, **changes: object) -> Decision:
    return selector.select("unquantized", layer(**changes))


def with_section(text: str) -> str:
    """The small rule set with another section in its oracle."""
    return SMALL.replace("    requests: {", text.rstrip() + "\n    requests: {")
