"""The index: every name of the tables and commands, with what it is and where to read of it."""

from __future__ import annotations

from collections.abc import Iterator

from moe_rules.cli import COMMANDS
from moe_rules.language.reading import vocabulary
from moe_rules.machines.machine import named_machines
from moe_rules.vocabulary.quant_keys import NAMED_KEYS
from moe_rules.vocabulary.switches import SWITCHES
from tools.site.conditions import page_of_fact
from tools.site.markdown import Page, anchor, code, document, heading, link, section, table
from tools.site.tables import (
    page_of_kernels,
    page_of_oracle,
    platforms,
    requests,
)


def index_page() -> Page:
    """All names in alphabetical order, by their first letter."""
    found: dict[str, dict[str, list[str]]] = {}
    for name, kind, where in _names():
        found.setdefault(name, {}).setdefault(kind, []).append(where)
    letters: dict[str, list[list[str]]] = {}
    for name in sorted(found, key=lambda name: (name.lower(), name)):
        for kind, places in found[name].items():
            row = [code(name), kind, ", ".join(dict.fromkeys(places))]
            letter = name[0].upper() if name[0].isalpha() else "0-9, $"
            letters.setdefault(letter, []).append(row)
    told = document(
        heading(1, "Index"),
        "Every backend, kernel, request, fact, switch, named set, feature, quantization key, "
        "oracle, machine and command.",
        *(
            section(2, letter, table(["name", "is a", "on"], rows))
            for letter, rows in letters.items()
        ),
    )
    return Page("names.md", "Index", told)


def _names() -> Iterator[tuple[str, str, str]]:
    for platform, rules in platforms().items():
        for fact in rules.facts:
            kind, label = ("switch", "Switches") if fact in SWITCHES else ("fact", "Facts")
            yield fact, kind, link(label, f"{page_of_fact(fact)}#{anchor(fact)}")
        for kernel in rules.kernels:
            yield kernel, "kernel", link(platform, f"{page_of_kernels(platform)}#{anchor(kernel)}")
        for oracle in rules.oracles.values():
            yield oracle.name, "oracle", link(platform, page_of_oracle(platform, oracle.name))
            for backend in oracle.backends:
                page = f"{page_of_oracle(platform, oracle.name)}#{anchor(backend)}"
                yield backend, "backend", link(f"{oracle.name} on {platform}", page)
    for name, *_ in requests():
        yield name, "request", link("Requests", f"/requests.md#{anchor(name)}")
    for name in vocabulary().sets:
        yield f"${name}", "named set", link("Named sets", "/facts/sets.md#sets")
    for name in vocabulary().features:
        yield name, "feature", link("Features", f"/facts/sets.md#{anchor(name)}")
    for name in NAMED_KEYS:
        page = f"/facts/quant_keys.md#{anchor(name)}"
        yield name, "quantization key", link("Quantization keys", page)
    for machine in named_machines().values():
        for name in (machine.name, *machine.aliases):
            yield name, "machine", link(str(machine.platform["device"]), "/platforms/machines.md")
    for command in COMMANDS:
        name = command.replace("_", "-")
        yield name, "command", link("Commands", f"/commands/{name}.md")
