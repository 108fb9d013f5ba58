"""What is taken out of rules: it changes no decision, or there is a deployment that it changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from moe_rules.analysis.compiled import compile_oracle
from moe_rules.analysis.parts import Part, holders, parts_of, rules_of, without
from moe_rules.analysis.symbolic import compile_selection
from moe_rules.analysis.verification import findings
from moe_rules.analysis.verified import VerifiedOracle
from moe_rules.language.finding_codes import CODES
from moe_rules.language.rules import Oracle, PlatformRules
from moe_rules.vocabulary.fact_values import FactValue
from tests.analysis.comparing import decided
from tests.analysis.random_rules import deployments, load, rule_files
from tests.analysis.test_difference import made_possible, possible
from tests.analysis.test_symbolic import FACT_NAMES, SLOW


def all_parts(oracle: Oracle) -> Iterator[Part]:
    yield from (part for part, _ in rules_of(oracle))
    for holder in holders(oracle):
        yield from (part for part, _, _ in parts_of(holder.condition))


def without_part(rules: PlatformRules, part: Part) -> PlatformRules:
    return rules.replaced(oracles={"fp8": without(rules.oracles["fp8"], part)})


@settings(max_examples=25, suppress_health_check=SLOW)
@given(rule_files(), st.data())
def test_a_part_matters_where_the_engine_decides_differently_without_it(
    file: dict[str, Any], data: st.DataObject
) -> None:
    rules = load(file)
    compiled = compile_oracle([rules], "fp8")
    verified = VerifiedOracle(compiled)
    parts = list(dict.fromkeys(all_parts(rules.oracles["fp8"])))
    facts = [made_possible(data.draw(deployments(FACT_NAMES))) for _ in range(5)]
    for part in data.draw(st.permutations(parts))[:6]:
        changed = without_part(rules, part)
        differing = difference(compiled.space, verified, changed)
        if verified.matters(part):
            assert differing is not None
            assert decided(rules, "fp8", differing) != decided(changed, "fp8", differing)
        else:
            assert differing is None
            for one in filter(possible, facts):
                assert decided(rules, "fp8", one) == decided(changed, "fp8", one)


def difference(
    space: Any, verified: VerifiedOracle, changed: PlatformRules
) -> Mapping[str, FactValue] | None:
    """A deployment that changed rules decide differently, found without regions of rules."""
    after = compile_selection(space, changed, changed.oracles["fp8"])
    diagrams = space.diagrams
    differs = diagrams.apply(
        lambda one, other: one != other, verified.selection.results, after.results
    )
    if not verified.is_somewhere(differs):
        return None
    return {"device": "cuda", **verified.witness(differs)}


@settings(max_examples=15, suppress_health_check=SLOW)
@given(rule_files(), st.lists(deployments(FACT_NAMES), min_size=8, max_size=8))
def test_no_deployment_gets_what_is_said_to_be_unreachable(
    file: dict[str, Any], facts: list[dict[str, FactValue]]
) -> None:
    rules = load(file)
    found = list(findings(rules, ()))
    assert all(one.is_unreachable and one.code in CODES for one in found)
    oracle = rules.oracles["fp8"]
    places = {one.location for one in found if one.code == "unreachable-backend"}
    unreachable = {name for name, one in oracle.backends.items() if one.location in places}
    for one in filter(possible, map(made_possible, facts)):
        assert decided(rules, "fp8", one).backend not in unreachable
