"""The evaluator knows no platform, backend, kernel, scheme, feature or oracle by name."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import moe_rules
from moe_rules.language.reading import vocabulary
from moe_rules.language.ruleset import load_platform
from moe_rules.vocabulary.facts import FACTS
from moe_rules.vocabulary.quant_keys import NAMED_KEYS
from moe_rules.vocabulary.table_names import PLATFORMS

PACKAGE = Path(moe_rules.__file__).parent
ROOMS = ("analysis", "engine", "language", "selectors")
SOURCES = sorted(path for room in ROOMS for path in PACKAGE.glob(f"{room}/*.py"))
# The file models enumerate platforms and oracles for the schema: that is their content.
DECLARES_NAMES = {"files.py"}


def names() -> set[str]:
    found = {*PLATFORMS, *NAMED_KEYS, *vocabulary().features}
    for platform in PLATFORMS:
        rules = load_platform(platform)
        found |= set(rules.kernels) | set(rules.oracles)
        for oracle in rules.oracles.values():
            found |= set(oracle.backends) | set(oracle.requests)
    found |= {f.name for f in FACTS.values() if f.group in ("platform", "software")}
    # "auto" is the word for no request; "device" selects the platform's rules.
    return {name.lower() for name in found} - {"auto", "device"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_name_in_a_string_of_the_evaluator(path: Path) -> None:
    if path.name in DECLARES_NAMES:
        pytest.skip("declares the closed lists")
    tree = ast.parse(path.read_text())
    docstrings = {
        ast.get_docstring(node, clean=False)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
    }
    strings = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    } - docstrings
    known = names()
    assert {text for text in strings if text.lower() in known} <= ALLOWED.get(path.name, set())


# Reason codes are a closed vocabulary of their own; one is called as the feature it is about.
ALLOWED = {"reasons.py": {"lora", "hash_routing", "decomposed_routing", "batch_invariance"}}
