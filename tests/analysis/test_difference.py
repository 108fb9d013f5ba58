"""Differences of rule sets: the engine decides differently in each of them, and nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moe_rules.analysis.cubes import UNKNOWN
from moe_rules.analysis.difference import Answer, Difference, answer_of, differences
from moe_rules.analysis.worlds import packaged_worlds
from moe_rules.files.yaml_source import read_yaml
from moe_rules.language.conditions import Condition
from moe_rules.language.parse import Parser
from moe_rules.language.reading import vocabulary
from moe_rules.language.rules import PlatformRules
from moe_rules.language.ruleset import load_platform
from moe_rules.vocabulary.fact_values import FactValue
from moe_rules.vocabulary.facts import REQUEST_DEFAULTS
from tests.analysis.comparing import decided
from tests.analysis.mutants import check
from tests.analysis.random_rules import deployments, load, rule_files
from tests.analysis.test_symbolic import FACT_NAMES, SLOW
from tests.conftest import SMALL

HASHED = """
from moe_rules.analysis.difference import differences
from moe_rules.language.ruleset import load_platform
for oracle in ("mxfp4", "mxfp8"):
    print([*differences(load_platform("rocm", release="0.32"), load_platform("rocm"), oracle)])
"""


def test_it_is_said_the_same_way_every_time() -> None:
    said = {
        subprocess.run(
            [sys.executable, "-c", HASHED],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert len(said) == 1


def condition(when: Mapping[str, Any], folder: Path) -> Condition:
    """A condition as a rule file has it, read as one."""
    path = folder / "when.yaml"
    path.write_text(yaml.safe_dump({"when": dict(when)}))
    words = vocabulary()
    parser = Parser(read_yaml(path), words.facts, words.sets)
    found = parser.condition(dict(when), ("when",))
    assert parser.problems == []
    return found


def answers(rules: PlatformRules, facts: Mapping[str, FactValue]) -> Answer:
    return answer_of(decided(rules, "fp8", facts))


def possible(facts: Mapping[str, FactValue]) -> bool:
    return not any(one.when.holds(facts) is True for one in packaged_worlds().impossible)


def made_possible(facts: Mapping[str, FactValue]) -> dict[str, FactValue]:
    """A deployment that can be, like one that may not."""
    exchange = facts["all2all_backend"]
    return {
        **REQUEST_DEFAULTS,
        **facts,
        "device": "cuda",
        "compute_capability": facts["compute_capability"] or (9, 0),
        "ep_size": 8 if facts["use_ep"] else 1,
        "sp_size": facts["sp_size"] if facts["use_ep"] else 1,
        "all2all_backend": "naive" if exchange.startswith("mori") else exchange,
    }


def says(one: Difference, facts: Mapping[str, FactValue], folder: Path) -> bool:
    """Whether a deployment fulfils one of a difference's conditions."""
    return fulfils(conditions_of(one, folder), facts)


def conditions_of(one: Difference, folder: Path) -> list[tuple[Condition, set[str]]]:
    """The conditions of a difference, each with the facts that must not be known."""
    found = []
    for when in one.when:
        known = {name: form for name, form in when.items() if form != UNKNOWN}
        found.append((condition(known, folder), when.keys() - known.keys()))
    return found


def fulfils(conditions: list[tuple[Condition, set[str]]], facts: Mapping[str, FactValue]) -> bool:
    """Whether a deployment fulfils one of several conditions."""
    return any(
        unknown.isdisjoint(facts) and one.holds(facts) is True for one, unknown in conditions
    )


changes = st.sampled_from(["adjust", "switches", "shortcuts", "requests", "backends", "kernels"])


@settings(max_examples=15, suppress_health_check=[*SLOW, HealthCheck.function_scoped_fixture])
@given(
    rule_files(),
    rule_files(),
    changes,
    st.lists(deployments(FACT_NAMES), min_size=10, max_size=10),
)
def test_what_differs_is_said_and_nothing_else(
    tmp_path: Path, file: dict, other: dict, section: str, facts: list[dict]
) -> None:
    before, changed = load(file), {**file, "oracles": {"fp8": dict(file["oracles"]["fp8"])}}
    if section == "kernels":
        changed["kernels"] = other["kernels"]
    else:
        changed["oracles"]["fp8"][section] = other["oracles"]["fp8"][section]
        if section == "requests":
            changed.pop("requested", None)
    after = load(changed)
    found = list(differences(before, after, "fp8"))
    for one in found:
        assert one.before == answers(before, one.witness)
        assert one.after == answers(after, one.witness)
        assert one.before != one.after
        assert says(one, one.witness, tmp_path), f"{one.when} {one.witness}"
        assert possible(one.witness)
    for deployment in facts:
        asked = made_possible(deployment)
        assert possible(asked)
        pair = answers(before, asked), answers(after, asked)
        meant = [one for one in found if (one.before, one.after) == pair]
        assert len(meant) == (pair[0] != pair[1])
        for one in meant:
            assert says(one, asked, tmp_path), (
                f"{one.when} {one.of} {one.exact} {one.before} {one.after} of {asked}"
            )
        for one in found:
            given_side = pair[0] == one.before if one.of == "before" else pair[1] == one.after
            if one.exact and given_side and one not in meant:
                assert not says(one, asked, tmp_path)


def small(folder: Path, text: str) -> PlatformRules:
    folder.mkdir()
    (folder / "cuda.yaml").write_text(text)
    return load_platform("cuda", packaged=folder)


def test_a_moved_line_is_one_region_in_few_words(tmp_path: Path) -> None:
    before = small(tmp_path / "before", SMALL)
    after = small(
        tmp_path / "after", SMALL.replace("priority: [FAST, SLOW]", "priority: [SLOW, FAST]")
    )
    (one,) = differences(before, after, "unquantized")
    assert (one.before, one.after) == (
        Answer("FAST", "FastExperts"),
        Answer("SLOW", "SlowExperts"),
    )
    assert (one.of, one.exact) == ("before", True)
    assert one.when == ({"moe_backend": {"not": "fast"}},)
    assert one.witness["moe_backend"] == "auto"
    assert list(differences(before, before, "unquantized")) == []


def test_a_bound_that_moves(tmp_path: Path) -> None:
    before = small(tmp_path / "before", SMALL)
    after = small(tmp_path / "after", SMALL.replace("<=64", "<=128"))
    found = {
        (one.before.backend, one.after.backend): one
        for one in differences(before, after, "unquantized")
    }
    one = found["SLOW", "FAST"]
    assert one.when == ({"moe_backend": {"not": "fast"}, "num_experts": ">64 <=128"},)
    assert 64 < one.witness["num_experts"] <= 128
    assert found[None, "FAST"].before.error == "invalid_request"


def test_a_request_for_the_oracle_stands_before_one_for_all(tmp_path: Path) -> None:
    before = small(tmp_path / "before", f"{SMALL}requested: {{unquantized: slow}}\n")
    both = "requested: {target: fast, unquantized: slow}"
    after = small(tmp_path / "after", f"{SMALL}{both}\n")
    assert list(differences(before, after, "unquantized")) == []
    without = small(tmp_path / "without", f"{SMALL}requested: {{target: fast}}\n")
    assert list(differences(before, without, "unquantized"))


def test_what_is_said_by_a_fact_that_no_rule_asks_for_holds_for_the_deployment(
    tmp_path: Path,
) -> None:
    # What follows from `use_ep` may be said of `ep_size`.
    adjusted = SMALL.replace(
        "requests:", "adjust: [{when: {use_ep: true}, first: [SLOW]}]\n    requests:"
    )
    before, after = small(tmp_path / "before", SMALL), small(tmp_path / "after", adjusted)
    (one,) = differences(before, after, "unquantized")
    assert says(one, one.witness, tmp_path), one.when


def test_an_oracle_that_one_side_lacks(tmp_path: Path) -> None:
    before = small(tmp_path / "before", SMALL)
    after = small(tmp_path / "after", SMALL.replace("unquantized:", "fp8:"))
    (one,) = differences(before, after, "fp8")
    assert (one.before.error, one.after.error) == ("no_oracle", None)
    assert list(differences(before, after, "int8")) == []


def test_on_one_machine_a_condition_on_devices_is_no_difference(tmp_path: Path) -> None:
    from moe_rules.machines.machine import load_machine

    before = small(tmp_path / "before", SMALL)
    after = small(tmp_path / "after", SMALL.replace('">=9.0"', '">=8.0"'))
    assert list(differences(before, after, "unquantized"))
    assert not list(differences(before, after, "unquantized", machine=load_machine("h100")))
    facts = {"num_experts": 100}
    assert not list(differences(before, after, "unquantized", facts=facts))


@pytest.mark.parametrize("seed", range(6))
def test_a_mutant_of_the_packaged_tables(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOE_RULES_CACHE", "off")
    assert check(seed, deployments=300)[0] in ("different", "alike", "refused")


def test_what_a_changed_rule_asks_is_said_even_where_the_answer_implies_it(tmp_path: Path) -> None:
    asks = {"compute_capability": "10.0", "flashinfer_trtllm_fused_moe": True}
    change = {"when": asks, "first": ["TRITON"]}
    overlay = {"platform": "cuda", "oracles": {"unquantized": {"adjust": [change]}}}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(overlay))
    before, after = load_platform("cuda"), load_platform("cuda", [path])
    found = list(differences(before, after, "unquantized"))
    assert found
    for difference in found:
        for when in difference.when:
            assert asks.items() <= when.items()
            assert not {"weight_key", "activation_key"} & when.keys()
