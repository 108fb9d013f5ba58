"""Module names in a checkpoint's quantization block: renaming them and matching layers with them.

A quantization block names modules as the checkpoint does; the model may call them differently.
The matching rules differ between checkpoint formats and are kept apart here, each under the name by
which ``quantization.yaml`` asks for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase, translate
from functools import lru_cache
from typing import Any

from moe_rules.models.conditions import Context
from moe_rules.models.patterns import begins

WILDCARDS = frozenset("*?[")
_compiled = lru_cache(maxsize=4096)(re.compile)


def rename(name: str, rules: Mapping[str, Mapping[str, str]] | None) -> str:
    """The model's name for a module of the checkpoint (see ``Rename`` in the table's schema)."""
    if not rules:
        return name
    for pattern, new in rules.get("regex", {}).items():
        name = _compiled(pattern).sub(new, name)
    for old, new in rules.get("substring", {}).items():
        if old in name:
            name = name.replace(old, new, 1)
    for old, new in rules.get("prefix", {}).items():
        if name.startswith(old):
            name = new + name[len(old) :]
    for old, new in rules.get("suffix", {}).items():
        if name.endswith(old):
            name = name[: len(name) - len(old)] + new
    return name


def rename_all(names: Iterable[str], rules: Mapping[str, Any] | None) -> list[str]:
    """:func:`rename` for every name."""
    return [rename(name, rules) for name in names] if rules else list(names)


def matches_pattern(name: str, pattern: str) -> bool:
    """``pattern`` equals the name or, after "re:", matches it from its start."""
    if pattern.startswith("re:"):
        return begins(pattern[3:], name)
    return name == pattern


Excludes = Callable[[str], bool]
"""Whether a module path is left out of quantization."""


def exact_or_inside_experts(skipped: list[str]) -> Excludes:
    """Routed experts are skipped if an entry that names experts contains their module path."""
    of_experts = [entry for entry in skipped if "experts" in entry]
    return lambda name: (
        any(name in entry for entry in of_experts) if "experts" in name else name in skipped
    )


def substring(skipped: list[str]) -> Excludes:
    """An entry is part of the module path."""
    return lambda name: any(entry in name for entry in skipped)


def wildcard(skipped: list[str]) -> Excludes:
    """An entry is part of the module path, contains it as experts, or matches it by wildcards."""
    inside = exact_or_inside_experts(skipped)
    matches = _any_wildcard(tuple(entry for entry in skipped if WILDCARDS.intersection(entry)))
    exact = set(skipped)

    def excludes(name: str) -> bool:
        inner = name.removeprefix("language_model.")
        return (
            name in exact
            or inside(name)
            or any(entry in name or entry in inner for entry in skipped)
            or matches(name)
        )

    return excludes


@lru_cache(maxsize=16)
def _any_wildcard(entries: tuple[str, ...]) -> Excludes:
    """Whether a name matches one of the wildcards; they are compiled into one expression."""
    if not entries:
        return lambda name: False
    expression = re.compile("|".join(map(translate, entries)))
    return lambda name: expression.match(name) is not None


def pattern(skipped: list[str]) -> Excludes:
    """An entry equals the module path or, after "re:", matches it from its start."""
    return lambda name: any(matches_pattern(name, entry) for entry in skipped)


def pattern_or_child(skipped: list[str]) -> Excludes:
    """As :func:`pattern`; an entry that names a module below the layer counts as well."""
    named = [entry for entry in skipped if not entry.startswith("re:")]
    matched = pattern(skipped)
    return lambda name: matched(name) or any(entry.startswith(name + ".") for entry in named)


def suffix(skipped: list[str]) -> Excludes:
    """An entry is the module path, or its last components."""
    return lambda name: any(name == entry or name.endswith(f".{entry}") for entry in skipped)


def wildcard_from_layers(skipped: list[str]) -> Excludes:
    """The module path from its component "layers" on matches an entry, which may hold wildcards."""

    def excludes(name: str) -> bool:
        _, found, below = f".{name}".rpartition(".layers.")
        path = f"layers.{below}" if found else name
        return any(fnmatchcase(path, entry) for entry in skipped)

    return excludes


SKIP_RULES: dict[str, Callable[[list[str]], Excludes]] = {
    "exact_or_inside_experts": exact_or_inside_experts,
    "substring": substring,
    "wildcard": wildcard,
    "pattern": pattern,
    "pattern_or_child": pattern_or_child,
    "suffix": suffix,
    "wildcard_from_layers": wildcard_from_layers,
}
"""Rules by which a list of module names excludes a layer from quantization."""


def named_modules(fields: Iterable[str], context: Context) -> list[str]:
    """The first list of module names among these fields that is not empty."""
    for field in fields:
        if names := context[field]:
            return list(names)
    return []


def layer_named(
    skip: Mapping[str, Any], context: Context, rules: Mapping[str, Any] | None
) -> Excludes:
    """Whether a ``skip`` of the tables names a module path; ``rules`` rename its entries."""
    return SKIP_RULES[skip["rule"]](rename_all(named_modules(skip["fields"], context), rules))


def split_trailing_star(names: Iterable[str]) -> list[str]:
    """``path*`` as the two entries ``path`` and ``path.*`` (ModelOpt's trees of modules)."""
    split: list[str] = []
    for name in names:
        if len(name) >= 2 and name[-1] == "*" and name[-2] != ".":
            split += [name[:-1], name[:-1] + ".*"]
        else:
            split.append(name)
    return split
