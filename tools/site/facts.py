"""Pages of the facts that rules may test: by group, and the switches."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from pathlib import Path

from moe_rules.files.packaged import packaged_rules
from moe_rules.language.rules import Derived, ValueOf
from moe_rules.vocabulary import facts as declared
from moe_rules.vocabulary.fact_values import Fact, in_words
from moe_rules.vocabulary.facts import FACTS, REQUEST_DEFAULTS
from moe_rules.vocabulary.switches import SWITCH_FACTS
from tools.site.conditions import fact as linked
from tools.site.conditions import sentence
from tools.site.markdown import (
    Page,
    code,
    document,
    heading,
    link,
    note,
    place,
    table,
)
from tools.site.tables import asked_by, platforms
from tools.site.words import keys_page, sets_page, words

SOURCES = {
    "platform": "Found on this machine (`moe-rules detect`), or those of the machine that "
    "`--machine` names or that a file has recorded.",
    "software": "Found on this machine (`moe-rules detect`), recorded, or those of a preset of a "
    "named machine (`--software`).",
    "layer": "Read from the model's `config.json`, as `rules/models` says for its architecture.",
    "parallel": "Follow from how the model is deployed (`--tp`, `--dp`, `--ep`, ...).",
    "quantization": "Read from the model's `quantization_config`, or from the keys that an "
    "engine passes.",
    "request": "What the user asks for, on the command line or of the engine.",
    "derived": "Follow from other facts, as `rules/vocabulary.yaml` says, and cannot be stated.",
}
"""Where the facts of a group come from."""


def fact_pages() -> Iterator[Page]:
    """The groups of facts, then switches, sets and keys."""
    facts = next(iter(platforms().values())).facts
    yield Page("facts/index.md", "Overview", _overview(facts.values()))
    for group, source in SOURCES.items():
        members = [f for f in facts.values() if f.group == group and f not in SWITCH_FACTS]
        more = "Switches have [a page of their own](/switches.md)." if group == "request" else ""
        told = document(
            heading(1, f"Facts: {group}"),
            f"{source} Any of them can be stated with `--set NAME=VALUE`. {more}".rstrip()
            if group != "derived"
            else source,
            *(_fact(fact) for fact in members),
        )
        yield Page(f"facts/{group}.md", group.capitalize(), told)
    yield Page("facts/sets.md", "Named sets and features", sets_page())
    yield Page("facts/quant_keys.md", "Quantization keys", keys_page())


def switch_page() -> Page:
    """The environment variables of the reference that rules ask for."""
    told = document(
        heading(1, "Switches"),
        "Environment variables of the reference, read as it reads each. Text that it could not "
        "read is an error where a rule asks for the switch. `moe-rules` takes them from its own "
        "environment, or from `--set NAME=VALUE`.",
        *(_fact(fact) for fact in SWITCH_FACTS),
    )
    return Page("switches.md", "Switches", told)


def _overview(facts: Iterable[Fact]) -> str:
    rows = [
        [linked(fact.name), link(fact.group, f"/facts/{fact.group}.md"), fact.meaning]
        for fact in facts
    ]
    return document(
        heading(1, "Facts"),
        "Everything that a rule may test. A deployment is a flat mapping of these to values; one "
        "that nobody supplied is unknown. `moe-rules facts` prints the same.",
        table(["fact", "group", "meaning"], rows),
    )


def _fact(fact: Fact) -> str:
    derived = {one.fact.name: one for one in next(iter(platforms().values())).derived}
    lines = [
        fact.meaning,
        "",
        f"- values: {_domain(fact)}",
        f"- if nobody says: {code(in_words(REQUEST_DEFAULTS[fact.name]))}"
        if fact.name in REQUEST_DEFAULTS and fact.reading is None
        else "",
        "- differs from call to call: rules may only compare it" if fact.per_call else "",
        *_reading(fact),
        f"- declared in {_declaration(fact)}",
    ]
    return document(
        heading(2, code(fact.name)),
        "\n".join(line for i, line in enumerate(lines) if line or i == 1),
        _cases(derived[fact.name]) if fact.name in derived else "",
        _asked(fact.name),
    ).rstrip()


def _domain(fact: Fact) -> str:
    if fact.values:
        words = ", ".join(map(code, fact.values))
        text = f"text, as {words}" if fact.type == "string" else words
        return f"{text}, {code('none')}" if fact.nullable else text
    return fact.domain.replace(
        "a quantization key", link("a quantization key", "/facts/quant_keys.md")
    )


def _reading(fact: Fact) -> Iterator[str]:
    reading = fact.reading
    if reading is not None:
        yield f"- read as {reading.valid} ({code(reading.source)})"
        asked = ", ".join(f"{when} ({code(where)})" for when, where in reading.read)
        yield f"- asked for by vLLM: {asked}"


@functools.cache
def _sources() -> dict[str, tuple[str, list[str]]]:
    """The modules that declare facts, by the path in the repository."""
    root = packaged_rules().parent
    folder = Path(declared.__file__).parent
    found = {}
    for name in ("facts.py", "switches.py"):
        file = folder / name
        found[name] = (file.relative_to(root).as_posix(), file.read_text("utf-8").splitlines())
    return found


def _declaration(fact: Fact) -> str:
    """Where a fact is declared: its line in the vocabulary."""
    if fact.name not in FACTS:
        return place(words().key_at(("derived", fact.name)))
    path, lines = _sources()["facts.py" if fact.reading is None else "switches.py"]
    quoted = f'"{fact.name}"'
    line = next(number for number, text in enumerate(lines, 1) if quoted in text)
    return link(f"{path}:{line}", f"/{path}#L{line}")


def _cases(derived: Derived) -> str:
    rows = [
        [
            sentence(when),
            f"that of {linked(value.fact)}"
            if isinstance(value, ValueOf)
            else code(in_words(value)),
        ]
        for when, value in derived.cases
    ]
    return table(["the first of these that holds", "value"], rows)


def _asked(name: str) -> str:
    asking = asked_by().get(name, {})
    if not asking:
        return "No packaged rule asks for it."
    lines = [f"- {platform}: {', '.join(links)}" for platform, links in asking.items()]
    count = sum(map(len, asking.values()))
    rules = "1 oracle or kernel asks" if count == 1 else f"{count} oracles and kernels ask"
    return note("abstract", f"{rules} for it", "\n".join(lines), closed=True)
