"""Which facts an oracle looks at."""

from __future__ import annotations

from moe_rules.engine.asked import asked_facts
from moe_rules.language.ruleset import load_platform
from tests.conftest import MakeRules
from tests.engine.layers import with_section


def test_facts_of_rules_kernels_and_what_they_are_derived_from() -> None:
    asked = asked_facts(load_platform("cuda"), "fp8")
    # A switch, a kernel's requirement, what a request is, and a fact behind a derived one.
    assert {"VLLM_USE_DEEP_GEMM", "num_experts", "moe_backend", "all2all_backend"} <= asked
    assert "model_type" in asked


def test_facts_that_only_other_oracles_look_at_are_left_out() -> None:
    asked = asked_facts(load_platform("cuda"), "unquantized")
    assert not {"model_type", "weight_transfer", "checkpoint_format"} & asked
    assert "weight_transfer" in asked_facts(load_platform("cuda"), "nvfp4")


def test_the_fact_by_which_backends_are_variants_is_asked(small: MakeRules) -> None:
    rules = with_section("    variants: {by: activation_key, fallback: none}").replace(
        "    schemes: [{weight: none, activation: none}]\n", ""
    )
    assert "activation_key" in asked_facts(small(rules=rules).rules, "unquantized")
