"""Why a backend was selected, in one line."""

from __future__ import annotations

import pytest

from moe_rules.engine.because import because
from tests.conftest import MakeRules
from tests.engine.layers import select, with_section

LAST = "{last: [FAST], because: it is slow}"
FIRST = "{first: [SLOW], because: it is exact}"


@pytest.mark.parametrize(
    ("section", "num_experts", "text", "line"),
    [
        ("", 8, "first in the order, and it serves the layer", 12),
        ("", 65, "FAST cannot serve the layer; next in the order", 15),
        (f"    adjust: [{LAST}]", 8, "it is slow", 6),
        (f"    adjust: [{LAST}, {FIRST}]", 8, "it is exact", 6),
        (f"    adjust: [{FIRST}, {LAST}]", 8, "it is slow", 6),
        ("    adjust: [{move: SLOW, before: FAST}]", 8, "move SLOW before FAST", 6),
        ("    adjust: [{first: [FAST]}]", 65, "FAST cannot serve the layer; next in the order", 15),
        ("    switches: [{take: SLOW}]", 8, "a switch says so", 6),
    ],
)
def test_an_order_and_what_changed_it(
    small: MakeRules, section: str, num_experts: int, text: str, line: int
) -> None:
    selector = small(rules=with_section(section))
    said, place = because(select(selector, num_experts=num_experts))
    assert said == text
    assert place.line == line


def test_what_is_taken_where_nothing_serves(small: MakeRules) -> None:
    rules = with_section("    otherwise: {backend: NONE, because: it is loaded all the same}")
    rules = rules.replace("priority: [FAST, SLOW]", "priority: [FAST]")
    said, place = because(select(small(rules=rules), num_experts=65))
    assert said == "FAST cannot serve the layer; it is loaded all the same"
    assert place.line == 6


def test_a_request(small: MakeRules) -> None:
    assert because(select(small(), moe_backend="slow"))[0] == "asked for by name"
