"""What differs between two releases."""

from __future__ import annotations

import pytest

from moe_rules.drift.changes import changes
from tests.drift.conftest import Read

SLOW = {("kernels", "Slow")}


def test_a_release_does_not_differ_from_itself(read: Read) -> None:
    assert changes(read(), read("two")) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "found"),
    [
        ("kernels", "LIMIT = 8", "LIMIT = 9", [("changed", "LIMIT")]),
        ("kernels", "return LIMIT", "return not LIMIT", [("changed", "helper")]),
        ("kernels", "return 1", "return 2", []),
        ("oracle", "return weights", "return None", []),
        ("envs", '"OTHER": lambda: os', '"OTHER": lambda: not os', []),
        ("envs", '"SWITCH": lambda: os', '"SWITCH": lambda: not os', [("changed", "SWITCH")]),
        ("config", "size > 1", "size > 2", [("changed", "Parallel.several")]),
        ("config", "size: int = 1", "size: int = 2", [("changed", "Parallel.size")]),
        ("models", "unused()", "None", []),
        (
            "oracle",
            "return [Backend.SLOW]",
            "return [Backend.UNUSED]",
            [("appeared", "Backend.UNUSED"), ("changed", "order")],
        ),
        (
            "kernels",
            "def helper(): return LIMIT",
            "def helper(): return 8",
            [("vanished", "LIMIT"), ("changed", "helper")],
        ),
    ],
)
def test_what_differs(
    read: Read, file: str, old: str, new: str, found: list[tuple[str, str]]
) -> None:
    differ = changes(read(), read("two", **{file: (old, new)}))
    assert [(one.kind, one.name.partition(":")[2]) for one in differ] == found


def test_what_is_gone_says_who_said_it_again(read: Read) -> None:
    one, _ = changes(read(), read("two", kernels=("return LIMIT", "return 8")))
    assert (one.kind, one.place, one.parts) == ("vanished", None, SLOW)


def test_what_moved_is_the_same_elsewhere(read: Read) -> None:
    moved = ("def helper(): return LIMIT\nLIMIT = 8", "from .models import helper")
    there = "def apply(self): return unused()"
    for text, kinds in (("LIMIT", ["moved", "moved"]), ("LIMIT + 1", ["moved", "changed"])):
        new = f"{there}\nLIMIT = 8\ndef helper(): return {text}"
        found = changes(read(), read(text, kernels=moved, models=(there, new)))
        assert [one.kind for one in found] == kinds
        limit, helper = found
        assert helper.name == "engine_package.engine.models:helper"
        assert helper.was == "engine_package.engine.kernels:helper"
        assert helper.parts == limit.parts == SLOW


def test_a_kernel_that_appears_counts_with_all_that_it_is_asked(read: Read) -> None:
    new = "return Fast if backend == Backend.FAST else New if backend else Slow"
    text = "class New(Fast):\n    @staticmethod\n    def _takes(config): return False\ndef helper()"
    imported = (
        "from .kernels import Fast, Slow\n    return Fast if backend == Backend.FAST else Slow"
    )
    after = read(
        "two",
        kernels=("def helper()", text),
        oracle=(imported, f"from .kernels import Fast, New, Slow\n    {new}"),
    )
    found = {one.name.partition(":")[2]: one for one in changes(read(), after)}
    assert {name: one.kind for name, one in found.items()} == {
        "kernels": "changed",
        "New": "appeared",
        "New._takes": "appeared",
    }
    assert found["New._takes"].parts == {("kernels", "New")}
