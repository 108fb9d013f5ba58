"""What two releases decide differently, against what was recorded of both for the same inputs."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from moe_rules.analysis.difference import Answer, Difference, differences
from moe_rules.conformance.cases import REFUSALS, Case, Selected, case_files, read_cases
from moe_rules.language.conditions import Condition
from moe_rules.language.ruleset import load_platform
from moe_rules.vocabulary.facts import REQUEST_DEFAULTS
from tests.analysis.test_difference import conditions_of, fulfils, possible

Conditions = list[tuple[Condition, set[str]]]
SAMPLES = Path(__file__).parents[1] / "samples"
RECORDED = os.environ.get("MOE_RULES_RECORDED", f"{SAMPLES / '0.32'}:{SAMPLES / 'dev'}")
"""Two folders of cases with the same ids: of 0.32 and of 0.33."""
ERRORS = dict(zip(REFUSALS, ("invalid_request", "not_supported"), strict=True))


def cases(folder: str) -> dict[str, Case]:
    files = case_files([Path(folder)])
    return {case.id: case for file in files for case in read_cases(file)}


def answer(case: Case) -> Answer | None:
    """What was recorded; None for a crash of the reference."""
    if isinstance(case.expect, Selected):
        return Answer(case.expect.backend, case.expect.kernel)
    return None if case.reference_crashed else Answer(error=ERRORS[case.expect.error_type])


@functools.cache
def regions(platform: str, oracle: str, folder: Path) -> list[tuple[Difference, Conditions]]:
    before, after = load_platform(platform, release="0.32"), load_platform(platform)
    return [(one, conditions_of(one, folder)) for one in differences(before, after, oracle)]


def test_every_recorded_change_is_in_its_region_and_no_other_is(tmp_path: Path) -> None:
    old, new = (cases(folder) for folder in RECORDED.split(":"))
    joint = sorted(old.keys() & new.keys())
    confirmed: set[tuple[str, str, Answer, Answer]] = set()
    for name in joint:
        pair = answer(old[name]), answer(new[name])
        facts = {**REQUEST_DEFAULTS, **new[name].facts}
        if None in pair or not possible(facts):
            continue
        found = regions(str(facts["device"]), new[name].oracle, tmp_path)
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
