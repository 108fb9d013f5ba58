"""Module names in a checkpoint's quantization block: renaming them and matching layers with them.

A quantization block names modules as the checkpoint does; the model may call them differently.
The matching rules differ between checkpoint formats and are kept apart here, each under the name by
which ``quantization.yaml`` asks for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatch
from functools import lru_cache
from typing import Any

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


def matches_pattern(name: str, pattern: str, *, wildcards: bool = False) -> bool:
    """``pattern`` equals the name, matches it from its start ("re:..."), or by wildcards."""
    if pattern.startswith("re:"):
        return _compiled(pattern[3:]).match(name) is not None
    return name == pattern or (wildcards and fnmatch(name, pattern))


def exact_or_inside_experts(name: str, skipped: list[str]) -> bool:
    """Routed experts are skipped if an entry that names experts contains their module path."""
    if "experts" not in name:
        return name in skipped
    return any("experts" in entry and name in entry for entry in skipped)


def substring(name: str, skipped: list[str]) -> bool:
    """An entry is part of the module path."""
    return any(entry in name for entry in skipped)


def wildcard(name: str, skipped: list[str]) -> bool:
    """An entry is part of the module path, contains it as experts, or matches it by wildcards."""
    if exact_or_inside_experts(name, skipped):
        return True
    inner = name.removeprefix("language_model.")
    for entry in skipped:
        if entry != name and (entry in name or entry in inner):
            return True
        if "*" in entry or "?" in entry or "[" in entry:
            if fnmatch(name, entry):
                return True
        elif entry == name:
            return True
    return False


def pattern(name: str, skipped: list[str]) -> bool:
    """An entry equals the module path or, after "re:", matches it from its start."""
    return any(matches_pattern(name, entry) for entry in skipped)


def pattern_or_child(name: str, skipped: list[str]) -> bool:
    """As :func:`pattern`; an entry that names a module below the layer counts as well."""
    children = name + "."
    return pattern(name, skipped) or any(
        entry.startswith(children) for entry in skipped if not entry.startswith("re:")
    )


SKIP_RULES: dict[str, Callable[[str, list[str]], bool]] = {
    "exact_or_inside_experts": exact_or_inside_experts,
    "substring": substring,
    "wildcard": wildcard,
    "pattern": pattern,
    "pattern_or_child": pattern_or_child,
}
"""Rules by which a list of module names excludes a layer from quantization."""


def split_trailing_star(names: Iterable[str]) -> list[str]:
    """``path*`` as the two entries ``path`` and ``path.*`` (ModelOpt's trees of modules)."""
    split: list[str] = []
    for name in names:
        if len(name) >= 2 and name[-1] == "*" and name[-2] != ".":
            split += [name[:-1], name[:-1] + ".*"]
        else:
            split.append(name)
    return split
