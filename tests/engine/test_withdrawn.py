"""What an overlay withdraws is as if no file before it had said it, save for the reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from moe_rules.files.problems import RuleFileError
from moe_rules.files.releases import releases
from moe_rules.language.ruleset import load_platform, overlay_paths
from moe_rules.selectors.errors import InvalidRequestError
from moe_rules.vocabulary.table_names import PLATFORMS
from tests.conftest import SMALL, MakeRules
from tests.engine.layers import layer, select, with_section

ORACLE = "platform: cuda\noracles:\n  unquantized:\n"
WITHOUT_FAST = ORACLE + "    withdrawn: {backends: {FAST: New in 2.0}}\n"


@pytest.mark.parametrize(
    "section",
    [
        "    adjust: [{last: [FAST]}, {move: SLOW, after: FAST}]",
        "    switches: [{try: FAST}, {drop: [FAST]}]",
        "    shortcuts: [{take: FAST}]",
    ],
)
def test_a_backend_goes_with_all_that_names_it(small: MakeRules, section: str) -> None:
    oracle = small(WITHOUT_FAST, rules=with_section(section)).rules.oracles["unquantized"]
    assert (list(oracle.backends), oracle.priority) == (["SLOW"], ("SLOW",))
    assert (oracle.adjust, oracle.switches, oracle.shortcuts) == ((), (), ())
    assert list(oracle.requests) == ["slow"]
    assert set(oracle.withdrawn) == {"FAST", "fast"}
    assert oracle.withdrawn["fast"].text == "New in 2.0"
    assert oracle.withdrawn["fast"].location.short == "overlay0/cuda.yaml:4"


def test_what_is_asked_of_others_too_stays(small: MakeRules) -> None:
    section = "    adjust: [{first: [FAST, SLOW]}]"
    rules = with_section(section).replace("fast: FAST", "fast: [FAST, SLOW]")
    selector = small(WITHOUT_FAST, rules=rules)
    assert selector.rules.oracles["unquantized"].adjust[0].names == ("SLOW",)
    assert select(selector, moe_backend="fast").backend == "SLOW"


def test_a_request_that_is_withdrawn_is_unknown_with_the_reason(small: MakeRules) -> None:
    selector = small(ORACLE + "    withdrawn: {requests: {fast: New in 2.0}}\n")
    assert select(selector).backend == "FAST"
    with pytest.raises(InvalidRequestError, match=r"'fast' is no backend .*: New in 2.0 \(.*:4"):
        selector.select("unquantized", layer(moe_backend="fast"))


def test_a_kernel_goes_from_its_backends(small: MakeRules) -> None:
    rules = SMALL.replace("[FastExperts]}", "[FastExperts, SlowExperts]}")
    gone = "platform: cuda\nwithdrawn: {kernels: {FastExperts: New in 2.0}}\n"
    decision = select(small(gone, rules=rules))
    assert (decision.backend, decision.kernel) == ("FAST", "SlowExperts")


@pytest.mark.parametrize("section", ["switches", "shortcuts"])
def test_a_step_goes_by_its_name(small: MakeRules, section: str) -> None:
    rules = with_section(f"    {section}: [{{name: never, refuse: Not today}}]")
    gone = ORACLE + f"    withdrawn: {{{section}: {{never: New in 2.0}}}}\n"
    with pytest.raises(InvalidRequestError, match="Not today"):
        select(small(rules=rules))
    assert select(small(gone, rules=rules)).backend == "FAST"
    # What takes the place of a step that is not there says nothing.
    later = ORACLE + f"    {section}: [{{replaces: never, refuse: Nor tomorrow}}]\n"
    assert select(small(gone, later, rules=rules)).backend == "FAST"


def test_later_files_may_say_it_anew(small: MakeRules) -> None:
    again = ORACLE + (
        "    adjust: [{first: [FAST]}]\n    requests: {fast: FAST}\n"
        "    backends: {FAST: {kernels: [SlowExperts]}}\n"
    )
    selector = small(WITHOUT_FAST, again)
    assert select(selector).kernel == select(selector, moe_backend="fast").kernel == "SlowExperts"
    assert selector.rules.oracles["unquantized"].withdrawn == {}


def test_what_adds_to_a_kernel_that_is_withdrawn_adds_to_nothing(small: MakeRules) -> None:
    gone = WITHOUT_FAST + "withdrawn: {kernels: {FastExperts: New in 2.0}}\n"
    more = "platform: cuda\nkernels: {FastExperts: {requires: {use_ep: true}}}\n"
    assert "FastExperts" not in small(gone, more).rules.kernels
    anew = "platform: cuda\nkernels: {FastExperts: {replace: true, requires: {use_ep: true}}}\n"
    assert "FastExperts" in small(gone, anew).rules.kernels


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("    withdrawn: {backends: {FASTER: x}}", "backends have no 'FASTER' .*'FAST'"),
        ("    withdrawn: {requests: {fats: x}}", "requests have no 'fats' .*'fast'"),
        ("    withdrawn: {switches: {never: x}}", "switches have no 'never'"),
        ("    withdrawn: {priority: {FAST: x}}", "unknown key 'priority'"),
        ("    withdrawn: {backends: [FAST]}", "a mapping is expected"),
    ],
)
def test_what_there_is_not_cannot_be_withdrawn(small: MakeRules, text: str, message: str) -> None:
    with pytest.raises(RuleFileError, match=f"overlay0/cuda.yaml:4.*{message}"):
        small(ORACLE + text + "\n")


def test_a_kernel_that_others_start_from_cannot_be_withdrawn_alone(small: MakeRules) -> None:
    rules = SMALL.replace("    supports:", "    extends: FastExperts\n    supports:")
    gone = WITHOUT_FAST + "withdrawn: {kernels: {FastExperts: New in 2.0}}\n"
    with pytest.raises(RuleFileError, match="there is no kernel 'FastExperts'"):
        small(gone, rules=rules)


Write = Callable[[str, str], Path]


def test_words_may_be_withdrawn(small: MakeRules, write: Write, tmp_path: Path) -> None:
    small()
    write(
        "older/words.yaml",
        """
        withdrawn:
          facts: {is_lora_enabled: New in 2.0}
          features: {lora: New in 2.0}
        """,
    )
    kernels = "kernels: {SlowExperts: {replace: true}}"
    write("older/cuda.yaml", f"platform: cuda\n{kernels}\n")
    rules = load_platform("cuda", [tmp_path / "older"], packaged=tmp_path / "packaged")
    assert "is_lora_enabled" not in rules.facts
    assert rules.withdrawn["is_lora_enabled"].location.short == "older/words.yaml:3"
    asked = {c.fact for c in rules.kernels["SlowExperts"].condition.clauses()}
    assert "is_lora_enabled" not in asked
    assert "VLLM_BATCH_INVARIANT" in asked


def test_no_rule_asks_a_fact_that_is_withdrawn(
    small: MakeRules, write: Write, tmp_path: Path
) -> None:
    small()
    write("older/words.yaml", "withdrawn: {facts: {num_experts: New in 2.0}}\n")
    with pytest.raises(RuleFileError, match="there is no fact 'num_experts'"):
        load_platform("cuda", [tmp_path / "older"], packaged=tmp_path / "packaged")


def test_words_may_be_said_otherwise(small: MakeRules, write: Write, tmp_path: Path) -> None:
    rules = SMALL.replace('num_experts: "<=64"', "activation: $no_mul")
    small(rules=rules)
    write("older/words.yaml", "sets: {no_mul: [silu]}\n")
    loaded = load_platform("cuda", [tmp_path / "older"], packaged=tmp_path / "packaged")
    condition = loaded.kernels["FastExperts"].condition
    wanted = {c.fact: c.test.words() for c in condition.clauses()}
    assert wanted["activation"] == "silu"


def test_a_release_lies_over_the_next_later_one(
    small: MakeRules, write: Write, tmp_path: Path
) -> None:
    small()
    write("packaged/releases.yaml", "releases: [2.0.0, 1.9.0, 1.8.0]\n")
    write("packaged/releases/1.9/cuda.yaml", WITHOUT_FAST)
    back = "    requests: {fast: FAST}\n    backends: {FAST: {kernels: [SlowExperts]}}\n"
    write("packaged/releases/1.8/cuda.yaml", ORACLE + back)
    answers = {
        release: list(
            load_platform("cuda", packaged=tmp_path / "packaged", release=release)
            .oracles["unquantized"]
            .requests
        )
        for release in ("2.0", "1.9", "1.8")
    }
    assert answers == {"2.0": ["fast", "slow"], "1.9": ["slow"], "1.8": ["fast", "slow"]}


@pytest.mark.parametrize("release", [one.name for one in releases()])
@pytest.mark.parametrize("overlay", ["corrected", "measured", "transformers", "moe_kernels"])
def test_packaged_overlays_lie_over_every_release(release: str, overlay: str) -> None:
    for platform in PLATFORMS:
        load_platform(platform, overlay_paths([overlay], release))


def test_whoever_asks_for_a_kernel_that_is_withdrawn_is_told_why(small: MakeRules) -> None:
    gone = "platform: cuda\nwithdrawn: {kernels: {FastExperts: New in 2.0}}\n"
    selector = small(gone)
    assert select(selector).backend == "SLOW"
    with pytest.raises(InvalidRequestError) as refused:
        selector.select("unquantized", layer(moe_backend="fast"))
    said = "  FAST: FastExperts is withdrawn: New in 2.0 (overlay0/cuda.yaml:2)"
    assert said in str(refused.value).splitlines()
    # Where a later file has it, there is nothing to say.
    again = "platform: cuda\nkernels: {FastExperts: {replace: true}}\n"
    assert select(small(gone, again)).backend == "FAST"
