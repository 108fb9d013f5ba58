"""What two releases decide differently, against what was recorded of both for the same inputs."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from moe_rules.analysis.difference import Answer, Difference, differences
from moe_rules.conformance.cases import (
    REFUSALS,
    case_files,
    platform_facts,
    read_lines,
    request_facts,
)
from moe_rules.language.conditions import Condition
from moe_rules.language.ruleset import load_platform
from moe_rules.vocabulary.fact_values import FactValue
from moe_rules.vocabulary.facts import REQUEST_DEFAULTS
from tests.analysis.test_difference import conditions_of, fulfils, possible

Conditions = list[tuple[Condition, set[str]]]
SAMPLES = Path(__file__).parents[1] / "samples"
RECORDED = os.environ.get("MOE_RULES_RECORDED", f"{SAMPLES / '0.32'}:{SAMPLES / 'dev'}")
"""Two folders of cases with the same ids: of 0.32 and of 0.33."""
ERRORS = dict(zip(REFUSALS, ("invalid_request", "not_supported"), strict=True))


def cases(folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for file in case_files([Path(folder)]):
        for _, case in read_lines(file):
            yield case["id"], case


def answer(case: Mapping[str, Any]) -> Answer | None:
    """What was recorded; None for a crash of the reference."""
    expect = case["expect"]
    if expect["outcome"] == "selected":
        return Answer(expect["backend"], expect["kernel"])
    error = ERRORS.get(expect["error_type"])
    return None if error is None else Answer(error=error)


@functools.cache
def regions(platform: str, oracle: str, folder: Path) -> list[tuple[Difference, Conditions]]:
    before, after = load_platform(platform, release="0.32"), load_platform(platform)
    return [(one, conditions_of(one, folder)) for one in differences(before, after, oracle)]


def test_every_recorded_change_is_in_its_region_and_no_other_is(tmp_path: Path) -> None:
    old, new = (dict(cases(folder)) for folder in RECORDED.split(":"))
    joint = sorted(old.keys() & new.keys())
    confirmed: set[tuple[str, str, Answer, Answer]] = set()
    for name in joint:
        pair = answer(old[name]), answer(new[name])
        facts: dict[str, FactValue] = {
            **REQUEST_DEFAULTS,
            **platform_facts(new[name]["platform"]),
            **request_facts(new[name]),
        }
        if None in pair or not possible(facts):
            continue
        found = regions(str(facts["device"]), new[name]["oracle"], tmp_path)
        for one, conditions in found:
            came = (one.before, one.after)
            given = pair[0] == one.before if one.of == "before" else pair[1] == one.after
            if came == pair:
                confirmed.add((one.platform, one.oracle, *came))
                assert fulfils(conditions, facts), f"{name}: {one.when}"
            elif given and one.exact:
                assert not fulfils(conditions, facts), f"{name}: {one.when}"
        changed = pair[0] != pair[1]
        count = sum((one.before, one.after) == pair for one, _ in found)
        assert count == changed, f"{name}: {pair}"
    assert len(joint) > 400
    assert len(confirmed) > 20
    print(f"{len(joint)} inputs of both releases confirm {len(confirmed)} regions")
