"""Overlays: reorder, add, disable, tighten, replace; provenance names the overlay."""

from __future__ import annotations

from pathlib import Path

import pytest

from moe_rules.files.problems import RuleFileError
from moe_rules.language.ruleset import rule_files
from moe_rules.selectors.errors import InvalidRequestError
from tests.conftest import SMALL, MakeRules
from tests.engine.layers import LAYER, layer, select


def overlay(text: str) -> str:
    return f"platform: cuda\noracles:\n  unquantized:\n    {text}\n"


def test_reorder(small: MakeRules) -> None:
    text = overlay("adjust: [{first: [SLOW]}]")
    assert select(small(text)).order == ("SLOW", "FAST")
    assert select(small(overlay("priority: [SLOW, FAST]"))).order == ("SLOW", "FAST")


def test_later_overlays_win(small: MakeRules) -> None:
    first = overlay("adjust: [{first: [SLOW]}]")
    second = overlay("adjust: [{first: [FAST]}]")
    assert select(small(first, second)).order == ("FAST", "SLOW")


def test_hidden_files_are_no_rules(tmp_path: Path) -> None:
    for name in (".pre-commit-config.yaml", ".github/workflow.yaml"):
        file = tmp_path / "mine" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("repos: []\n")
    (tmp_path / "mine/cuda.yaml").write_text(overlay("adjust: [{first: [SLOW]}]"))
    assert [file.name for file in rule_files(tmp_path / "mine")] == ["cuda.yaml"]


def test_disable(small: MakeRules) -> None:
    decision = select(small(overlay("adjust: [{withdraw: [FAST], because: broken here}]")))
    assert decision.backend == "SLOW"
    assert "overlay0" in decision.removed[0].location.file


def test_what_a_later_rule_puts_back_is_there_again(small: MakeRules) -> None:
    without = overlay("adjust: [{withdraw: [FAST], because: broken here}]")
    back = overlay("adjust: [{first: [FAST], because: mended}]")
    selector = small(without, back)
    assert select(selector).order == ("FAST", "SLOW")
    assert select(selector).removed == ()
    assert select(selector, moe_backend="fast").backend == "FAST"
    with pytest.raises(InvalidRequestError):
        select(small(without), moe_backend="fast")


def test_add_a_backend(small: MakeRules) -> None:
    text = (
        overlay("adjust: [{first: [MINE]}]")
        + "    backends: {MINE: {kernels: [MyExperts]}}\n"
        + "kernels: {MyExperts: {}}\n"
    )
    assert select(small(text)).kernel == "MyExperts"


def test_tighten_a_kernel(small: MakeRules) -> None:
    text = 'platform: cuda\nkernels: {FastExperts: {requires: {hidden_dim: ">=4096"}}}\n'
    decision = select(small(text))
    assert decision.backend == "SLOW"
    (failure,) = decision.candidates[0].failures
    assert failure.fact == "hidden_dim"
    assert "overlay0" in failure.location.file


def test_replace_a_kernel(small: MakeRules) -> None:
    text = "platform: cuda\nkernels: {FastExperts: {replace: true, requires: {has_bias: false}}}\n"
    assert select(small(text), num_experts=65).backend == "FAST"
    before = text.replace("has_bias: false", "has_bias: true")
    assert select(small(before, text), num_experts=65).backend == "FAST"


def test_an_overlay_cannot_loosen_by_accident(small: MakeRules) -> None:
    with pytest.raises(RuleFileError, match="cannot set 'supports'; use 'replace: true'"):
        small("platform: cuda\nkernels: {FastExperts: {supports: [lora]}}\n")


def test_a_kernel_gets_another_class(small: MakeRules) -> None:
    decision = select(
        small("platform: cuda\nkernels: {FastExperts: {class: mine.experts:FasterExperts}}\n")
    )
    assert (decision.backend, decision.kernel) == ("FAST", "mine.experts:FasterExperts")
    assert "overlay0" in decision.candidates[0].location.file
    selector = small(
        "platform: cuda\nkernels: {FastExperts: {class: mine.experts:FasterExperts}}\n"
    )
    assert select(selector, num_experts=65).backend == "SLOW"  # what it requires stays


@pytest.mark.parametrize(
    "place", ["mine.experts.FasterExperts", "mine:experts:Fast", ":Fast", "a b"]
)
def test_a_class_is_named_or_placed(small: MakeRules, place: str) -> None:
    with pytest.raises(RuleFileError, match="class"):
        small(f"platform: cuda\nkernels: {{FastExperts: {{class: '{place}'}}}}\n")


def test_own_switches_are_read_first(small: MakeRules) -> None:
    decision = select(small(overlay("switches: [{take: SLOW, because: mine}]")))
    assert decision.backend == "SLOW"
    assert decision.reason is not None
    assert "overlay0" in decision.reason.location.file


def test_other_platforms_files_are_passed_over(small: MakeRules) -> None:
    assert select(small("platform: rocm\nkernels: {}\n")).backend == "FAST"


def test_fingerprint_covers_overlays(small: MakeRules) -> None:
    plain = small().rules.fingerprint
    assert small().rules.fingerprint == plain
    assert small(overlay("adjust: [{first: [SLOW]}]")).rules.fingerprint != plain


NAMED = SMALL.replace(
    "    requests: {",
    "    switches:\n"
    "      - {name: first, take: SLOW, because: packaged}\n"
    "      - {take: FAST}\n"
    "    adjust: [{name: slow_first, first: [SLOW]}]\n"
    "    requests: {",
)


def test_a_named_entry_is_replaced_in_its_place(small: MakeRules) -> None:
    assert select(small(rules=NAMED)).backend == "SLOW"
    nothing = overlay("switches: [{replaces: first, drop: [], because: not needed here}]")
    assert select(small(nothing, rules=NAMED)).backend == "FAST"
    refused = overlay("switches: [{replaces: first, refuse: not here}]")
    with pytest.raises(InvalidRequestError, match="not here"):
        select(small(nothing, refused, rules=NAMED))


def test_a_named_adjustment_is_replaced(small: MakeRules) -> None:
    assert select(small(rules=NAMED)).order == ("SLOW", "FAST")
    text = overlay("adjust: [{replaces: slow_first, drop: []}]")
    assert select(small(text, rules=NAMED)).order == ("FAST", "SLOW")


def test_replacing_what_is_not_there_names_the_nearest(small: MakeRules) -> None:
    with pytest.raises(RuleFileError, match=r"no entry of 'switches' is named 'fist'.*'first'"):
        small(overlay("switches: [{replaces: fist, drop: []}]"), rules=NAMED)
    with pytest.raises(RuleFileError, match="no entry of 'shortcuts' is named 'first'"):
        small(overlay("shortcuts: [{replaces: first, drop: []}]"), rules=NAMED)


def test_a_name_stands_for_one_entry(small: MakeRules) -> None:
    with pytest.raises(RuleFileError, match="'first' names another entry already"):
        small(overlay("switches: [{name: first, take: SLOW}]"), rules=NAMED)


def test_an_oracle_may_extend_another(small: MakeRules) -> None:
    rules = SMALL.replace(
        "kernels:\n  FastExperts",
        "  fp8:\n"
        "    extends: unquantized\n"
        "    priority: [SLOW]\n"
        "    backends: {SLOW: {kernels: [FastExperts]}}\n"
        "kernels:\n  FastExperts",
    )
    selector = small(rules=rules)
    assert selector.rules.warnings == ()
    decision = selector.select("fp8", LAYER)
    assert (decision.backend, decision.kernel) == ("SLOW", "FastExperts")
    assert selector.select("fp8", layer(moe_backend="fast")).backend == "FAST"
    assert select(selector, moe_backend="slow").kernel == "SlowExperts"


@pytest.mark.parametrize(
    ("base", "message"), [("int8", "has no oracle 'int8'"), ("fp8", "extends itself")]
)
def test_an_oracle_that_extends_nothing_or_itself(
    small: MakeRules, base: str, message: str
) -> None:
    rules = SMALL.replace("kernels:\n  Fast", f"  fp8: {{extends: {base}}}\nkernels:\n  Fast")
    with pytest.raises(RuleFileError, match=message):
        small(rules=rules)
