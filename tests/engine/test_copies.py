"""Decisions and the errors of selections go from process to process, and to their copies, whole."""

import copy
import pickle

import pytest

from moe_rules import FusedMoEConfig
from moe_rules.language.conditions import ALWAYS, NEVER, UNKNOWN
from moe_rules.selectors.errors import SelectionError
from moe_rules.selectors.selector import as_machine, selector_in

LAYER = {"num_experts": 8, "experts_per_token": 2, "hidden_dim": 2048, "intermediate_size": 1024}


def copied(value):
    return pickle.loads(pickle.dumps(value)), copy.copy(value), copy.deepcopy(value)


def outcomes(machine, backend):
    selector = selector_in({"MOE_RULES_BACKEND": "unquantized=triton"}, as_machine(machine))
    config = FusedMoEConfig(**LAYER, moe_backend=backend)
    for oracle in selector.rules.oracles:
        try:
            yield selector.select(oracle, config)
        except SelectionError as error:
            yield error


@pytest.mark.parametrize("backend", ["auto", "deep_gemm", "nope"])
@pytest.mark.parametrize("machine", ["h100", "mi300x", "x86"])
def test_copies_say_the_same(machine, backend):
    for outcome in outcomes(machine, backend):
        for other in copied(outcome):
            assert type(other) is type(outcome)
            assert str(other) == str(outcome)
            decisions = [getattr(one, "decision", one) for one in (outcome, other)]
            mine, copies = [one.to_dict() for one in decisions]
            assert copies == mine


@pytest.mark.parametrize("constant", [ALWAYS, NEVER, UNKNOWN])
def test_a_constant_is_one_object(constant):
    assert all(other is constant for other in copied(constant))
