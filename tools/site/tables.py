"""The packaged tables as the site shows them: every platform's rules, and who asks for what."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from moe_rules.files.yaml_source import read_yaml
from moe_rules.language.conditions import Condition
from moe_rules.language.rules import Backend, Kernel, Oracle, PlatformRules, RequestCase
from moe_rules.language.ruleset import load_platform
from moe_rules.reporting.quirks import Quirk, quirks
from moe_rules.vocabulary.table_names import PLATFORMS
from tools.site.markdown import anchor, code, link, note


@functools.cache
def platforms() -> dict[str, PlatformRules]:
    """The rules of every platform by its name."""
    return {platform: load_platform(platform) for platform in PLATFORMS}


@functools.cache
def _quirks(platform: str) -> tuple[Quirk, ...]:
    return tuple(quirks(platform))


def odd(platform: str, subject: str, oracle: str | None = None) -> list[str]:
    """Notes on where the reference is odd about a backend of an oracle, or a kernel."""
    return [
        note("warning", "The reference is odd", f"{quirk.happens} Meant: {quirk.meant}")
        for quirk in _quirks(platform)
        if (quirk.oracle, quirk.subject) == (oracle, subject)
    ]


def page_of_oracle(platform: str, oracle: str) -> str:
    """The page of how an oracle selects on a platform."""
    return f"/platforms/{platform}/{oracle}.md"


def page_of_kernels(platform: str) -> str:
    """The page of what a platform's kernels require."""
    return f"/platforms/{platform}/kernels.md"


def to_oracle(platform: str, oracle: str) -> str:
    """An oracle's name, linked."""
    return link(oracle, page_of_oracle(platform, oracle))


def to_backend(platform: str, oracle: str, backend: str) -> str:
    """A backend's name, linked."""
    target = f"{page_of_oracle(platform, oracle)}#{anchor(backend)}"
    known = backend in platforms()[platform].oracles[oracle].backends
    return link(code(backend), target) if known else code(backend)


def to_kernel(platform: str, kernel: str) -> str:
    """A kernel's name, linked."""
    return link(code(kernel), f"{page_of_kernels(platform)}#{anchor(kernel)}")


@functools.cache
def kinds(platform: str) -> dict[str, str]:
    """Whether each kernel of a platform is modular or monolithic."""
    tables: dict[str, dict[str, Any]] = {}
    for file in platforms()[platform].files:
        tables |= read_yaml(file).data.get("kernels", {})

    def kind(table: dict[str, Any]) -> str:
        inherited = kind(tables[table["extends"]]) if "extends" in table else "modular"
        return str(table.get("kind", inherited))

    return {name: kind(table) for name, table in tables.items()}


def users_of(rules: PlatformRules, kernel: Kernel) -> list[tuple[Oracle, Backend]]:
    """The backends that offer a kernel, with their oracles."""
    return [
        (oracle, backend)
        for oracle in rules.oracles.values()
        for backend in oracle.backends.values()
        if any(choice.kernel.name == kernel.name for choice in backend.choices)
    ]


def requests() -> Iterator[tuple[str, str, str, RequestCase]]:
    """Every name that may be requested: with platform, oracle, and what it means there."""
    for platform, rules in platforms().items():
        for oracle in rules.oracles.values():
            for name, cases in oracle.requests.items():
                for case in cases:
                    yield name, platform, oracle.name, case


def _own_conditions(oracle: Oracle) -> Iterator[Condition]:
    """What an oracle asks besides its kernels."""
    kernels = [c.kernel.condition for b in oracle.backends.values() for c in b.choices]
    yield from (condition for condition in oracle.conditions() if condition not in kernels)


@functools.cache
def asked_by() -> dict[str, dict[str, list[str]]]:
    """For each fact, by platform, links to the oracles and kernels whose rules ask for it."""
    found: dict[str, dict[str, list[str]]] = {}

    def add(fact_names: Iterator[str], platform: str, asks: str) -> None:
        for name in dict.fromkeys(fact_names):
            found.setdefault(name, {}).setdefault(platform, []).append(asks)

    for platform, rules in platforms().items():
        for oracle in rules.oracles.values():
            names = [n for condition in _own_conditions(oracle) for n in condition.fact_names()]
            names += [oracle.variants.fact] if oracle.variants else []
            add(iter(names), platform, to_oracle(platform, oracle.name))
        for kernel in rules.kernels.values():
            add(kernel.condition.fact_names(), platform, to_kernel(platform, kernel.name))
    return found
