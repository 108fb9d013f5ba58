"""Named sets of the packaged vocabulary whose members follow from a rule."""

from __future__ import annotations

from moe_rules.language.reading import vocabulary


def test_unsigned_integers_are_of_every_width_with_and_without_a_bias() -> None:
    widths = range(2, 9)
    plain = {f"uint{bits}" for bits in widths}
    biased = {f"uint{bits}b{2 ** (bits - 1)}" for bits in widths}  # the bias centres the values
    assert set(vocabulary().sets["unsigned_integers"]) == plain | biased
