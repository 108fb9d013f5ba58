"""Fingerprints: what counts in code, and what does not."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from moe_rules.drift.fingerprint import fingerprint

FUNCTION = """
def pick(config):
    if config.size > 8:
        return FAST
    return SLOW
"""


def of(text: str) -> str:
    return fingerprint([ast.parse(text)])


@pytest.mark.parametrize(
    "text",
    [
        FUNCTION.replace("if config", "# a comment\n    if (config").replace("8:", "8):"),
        FUNCTION.replace("):", '):\n    """What it does."""', 1),
        FUNCTION.replace("(config)", "(config: Config | None) -> Backend"),
        FUNCTION.replace("    return SLOW", "    logger.info('slow')\n    return SLOW"),
        FUNCTION.replace("    if", "    from somewhere import FAST, SLOW\n    if"),
    ],
)
def test_looks_do_not_count(text: str) -> None:
    assert text != FUNCTION
    assert of(text) == of(FUNCTION)


@pytest.mark.parametrize(
    "text",
    [
        FUNCTION.replace("8", "9"),
        FUNCTION.replace(">", ">="),
        FUNCTION.replace("FAST", "FASTER"),
        FUNCTION.replace("(config)", "(config, more=None)"),
        FUNCTION.replace("    return SLOW\n", ""),
        FUNCTION.replace("def", "@cache\ndef"),
        FUNCTION.replace("return FAST", "return 'FAST'"),
    ],
)
def test_what_code_does_counts(text: str) -> None:
    assert of(text) != of(FUNCTION)


@pytest.mark.parametrize("file", sorted(Path(__file__).parents[2].glob("moe_rules/drift/*.py")))
def test_written_otherwise_it_is_the_same(file: Path) -> None:
    text = file.read_text()
    assert of(ast.unparse(ast.parse(text))) == of(text)
