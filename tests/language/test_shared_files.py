"""Files of several platforms: each reads them as its own, and nothing is said twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from moe_rules.files.problems import RuleFileError
from moe_rules.language.rules import PlatformRules
from moe_rules.language.ruleset import load_platform
from tests.conftest import SMALL

Write = Callable[[str, str], Path]

SHARED = """
platform: [cuda, rocm]
oracles:
  unquantized:
    request_error: not_supported
    switches:
      - {when: {is: crowded}, refuse: too many, because: we say so}
  fp8:
    extends: unquantized
conditions:
  crowded: {num_experts: ">64"}
"""


@pytest.fixture
def load(write: Write, tmp_path: Path) -> Callable[..., PlatformRules]:
    """Load a platform whose own file is SMALL, beside a shared file and with overlays."""

    def load_rules(platform: str, shared: str = SHARED, *overlays: str) -> PlatformRules:
        for name in ("cuda", "rocm", "tpu"):
            write(f"packaged/{name}.yaml", SMALL.replace("cuda", name))
        write("packaged/shared/all.yaml", shared)
        paths = [write(f"overlay{i}.yaml", text) for i, text in enumerate(overlays)]
        return load_platform(platform, paths, packaged=tmp_path / "packaged")

    return load_rules


Load = Callable[..., PlatformRules]


@pytest.mark.parametrize("platform", ["cuda", "rocm"])
def test_a_platform_has_what_its_files_and_shared_ones_say(load: Load, platform: str) -> None:
    rules = load(platform)
    oracle = rules.oracles["unquantized"]
    assert [Path(file).name for file in rules.files] == [f"{platform}.yaml", "all.yaml"]
    assert (oracle.priority, oracle.request_error) == (("FAST", "SLOW"), "not_supported")
    (switch,) = oracle.switches
    assert str(switch.reason.location).endswith("shared/all.yaml:7:9")
    assert set(rules.oracles["fp8"].backends) == {"FAST", "SLOW"}


def test_what_an_oracle_extends_may_stand_in_either_file(load: Load) -> None:
    more = SHARED.replace("  fp8:\n    extends: unquantized\n", "  fp8: {extends: unquantized}\n")
    own = "platform: cuda\noracles: {fp8: {priority: [SLOW]}}\n"
    oracle = load("cuda", more, own).oracles["fp8"]
    assert (oracle.priority, set(oracle.backends)) == (("SLOW",), {"FAST", "SLOW"})


def test_another_platform_has_nothing_of_it(load: Load) -> None:
    rules = load("tpu")
    assert [Path(file).name for file in rules.files] == ["tpu.yaml"]
    assert rules.oracles["unquantized"].switches == ()


def test_an_overlay_may_be_of_several_platforms(load: Load) -> None:
    adjust = "{unquantized: {adjust: [{first: [SLOW], because: ours}]}}"
    overlay = f"platform: [rocm, tpu]\noracles: {adjust}\n"
    changed = [
        p for p in ("cuda", "rocm", "tpu") if load(p, SHARED, overlay).oracles["unquantized"].adjust
    ]
    assert changed == ["rocm", "tpu"]


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("[cuda, rocm, cuda]", ":2:11: error: 'cuda' is named twice"),
        ("[cuda, rcom]", ":2:18: error: 'rcom' is not allowed; did you mean 'rocm'?"),
        ("[]", ":2:11: error: this names no platform"),
        ("[cuda, [rocm]]", ":2:18: error: "),
    ],
)
def test_a_wrong_list_of_platforms(load: Load, written: str, message: str) -> None:
    with pytest.raises(RuleFileError) as caught:
        load("tpu", SHARED.replace("[cuda, rocm]", written))
    (problem,) = caught.value.problems
    assert message in str(problem)


@pytest.mark.parametrize(
    ("more", "place", "first"),
    [
        ("oracles: {unquantized: {priority: [SLOW]}}", "all.yaml:2:25", "cuda.yaml:5:5"),
        ("kernels: {SlowExperts: {}}", "all.yaml:2:11", "cuda.yaml:14:3"),
    ],
)
def test_what_two_files_say_is_an_error_that_names_both(
    load: Load, more: str, place: str, first: str
) -> None:
    with pytest.raises(RuleFileError) as caught:
        load("cuda", f"platform: [cuda, rocm]\n{more}\n")
    (problem,) = caught.value.problems
    assert str(problem.location).endswith(place)
    assert "is declared already at" in problem.message
    assert problem.message.endswith(first)


def test_a_file_of_several_platforms_lies_among_none_of_one(write: Write, load: Load) -> None:
    load("rocm")
    path = write("packaged/rocm/more.yaml", "platform: [rocm, tpu]\n")
    with pytest.raises(RuleFileError) as caught:
        load("rocm")
    (problem,) = caught.value.problems
    assert str(problem).startswith(f"{path}:1:11: error: this is a file of rocm by its place")
    assert "lies in the folder 'shared'" in problem.message
