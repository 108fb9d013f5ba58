from __future__ import annotations

import pytest

from moe_rules.cli.json_lines import line_of

TEXT = """{"a": 1,
 "list": [
  0, {"x\\"y": "}],"},
  [1, 2]],
 "b": {"c.d": {},
  "c": {"d": 1}},
 "a": 2
}"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("a", 7),  # the last of two
        ("list", 2),
        ("list.1", 3),
        ('list.1.x"y', 3),
        ("list.2.1", 4),
        ("b", 5),
        ("b.c.d", 5),  # the key that has the dot itself
        ("b.c", 6),
        ("b.c.e", 6),  # absent below it
        ("list.7", 2),
        ("nope", None),
    ],
)
def test_the_line_of_a_path(path: str, line: int | None) -> None:
    assert line_of(path, TEXT) == line
