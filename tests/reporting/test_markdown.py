"""Tables and code in Markdown keep their shape, whatever they hold."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_rules.reporting.markdown import code, table, words

CELLS = st.text("ab|\n*`", max_size=6)
COLUMNS = 3


@given(st.lists(st.lists(CELLS, min_size=COLUMNS, max_size=COLUMNS), min_size=1, max_size=4))
def test_a_row_is_a_line_with_a_cell_for_each_column(rows: list[list[str]]) -> None:
    lines = table(["one", "two", "three"], rows).split("\n")
    assert lines[:2] == ["| one | two | three |", "| --- | --- | --- |"]
    assert len(lines) == len(rows) + 2
    for line, row in zip(lines[2:], rows, strict=True):
        _, *cells, _ = re.split(r"(?<!\\)\|", line)
        assert [cell[1:-1].replace("\\|", "|") for cell in cells] == [
            cell.replace("\n", " ") for cell in row
        ]


def test_without_rows_there_is_no_table() -> None:
    assert table(["one"], []) == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [("a: [b|c]", "`a: [b|c]`"), ("a `b` c", "`` a `b` c ``"), ("``", "``` `` ```")],
)
def test_code_may_have_marks_of_code(text: str, said: str) -> None:
    assert code(text) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("FLASHINFER_TRTLLM / a-b.c (d)", "FLASHINFER_TRTLLM / a-b.c (d)"),
        ("a*b `c` <d> [e](f)", r"a\*b \`c\` \<d> \[e](f)"),
        ("_a_ b_c __", r"\_a\_ b_c \_\_"),
        ("a\nb", "a b"),
    ],
)
def test_words_mean_nothing_in_markdown(text: str, said: str) -> None:
    assert words(text) == said
