"""Where the reference is odd: every ``quirk`` of the tables, and what ``corrected`` makes of it.

A quirk says what happens, what was meant and, where the overlay ``corrected`` leaves it as it
is, why: "... Meant: ... Not corrected: ...". A correction is found by what it addresses: the
kernel, backend, request or ``otherwise`` of the same name, the named entry that it replaces, or
the backend that it requests or moves.

``python -m moe_rules.reporting.quirks --write`` writes ``docs/quirks.md``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_rules.files.packaged import packaged_rules
from moe_rules.files.problems import KeyPath, Location
from moe_rules.files.yaml_source import YamlSource, read_yaml
from moe_rules.language.ruleset import load_platform
from moe_rules.reporting import markdown
from moe_rules.reporting.generated import write_page
from moe_rules.vocabulary.table_names import PLATFORMS

OVERLAY = "corrected"
_TEXT = re.compile(r"(?P<happens>.+?) Meant: (?P<meant>.+?)( Not corrected: (?P<why>.+))?")

INTRODUCTION = """\
# Where the reference is odd

This file is generated from the tables: `python -m moe_rules.reporting.quirks --write`.

The tables decide as vLLM 0.33.0 does, also where it seems to have meant something else. Each such
place has a `quirk` in the tables, which explanations show. The overlay `corrected` offers what
was meant where that is clear and safe: `--rules corrected`, or `MOE_RULES_PATH=corrected`. The
last column has the line that corrects, or why nothing does.
"""


@dataclass(frozen=True)
class Quirk:
    """One oddity: ``oracle`` is None for a kernel's; ``subject`` names the entry it is about.

    ``corrections`` are the places in the overlay that address the same entry;
    ``uncorrected`` says what they leave, and why.
    """

    platform: str
    oracle: str | None
    subject: str
    happens: str
    meant: str
    uncorrected: str | None
    location: Location
    corrections: tuple[Location, ...]


def quirks(platform: str) -> list[Quirk]:
    """All quirks of one platform's packaged tables, in the order of its files.

    Raises ValueError for a quirk that does not say what was meant.
    """
    found = []
    corrections = _corrections(platform)
    for path in load_platform(platform).files:
        source = read_yaml(path)
        for place, table in _tables_with_quirk(source.data, ()):
            parts = _TEXT.fullmatch(" ".join(table["quirk"].split()))
            location = source.key_at((*place, "quirk"))
            if parts is None:
                raise ValueError(f"{location}: a quirk says '<what happens> Meant: <what>'")
            address = _address(place, table)
            found.append(
                Quirk(
                    platform,
                    str(place[1]) if place[0] == "oracles" else None,
                    _subject(place, table),
                    parts["happens"],
                    parts["meant"],
                    parts["why"],
                    location,
                    tuple(corrections.get(address, ())),
                )
            )
    return found


def _tables_with_quirk(node: Any, place: KeyPath) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
    if isinstance(node, dict):
        if isinstance(node.get("quirk"), str):
            yield place, node
        items: Iterator[tuple[str | int, Any]] = iter(node.items())
    elif isinstance(node, list):
        items = enumerate(node)
    else:
        return
    for key, value in items:
        yield from _tables_with_quirk(value, (*place, key))


def _address(place: KeyPath, table: Mapping[str, Any]) -> KeyPath:
    """What a correction of the entry at ``place`` addresses."""
    if place[0] == "oracles" and place[2] == "requests":
        return place[:4]
    if isinstance(place[-1], int):
        return (*place[:-1], table.get("name", place[-1]))
    return place


def _subject(place: KeyPath, table: Mapping[str, Any]) -> str:
    if place[0] == "kernels":
        return f"`{place[1]}`"
    section, *rest = place[2:]
    words = {"requests": "request", "backends": "backend"}
    if section in words:
        return f"{words[str(section)]} `{rest[0]}`"
    return f"`{section}`" + (f", `{table['name']}`" if "name" in table else "")


def _corrections(platform: str) -> dict[KeyPath, list[Location]]:
    """The places of the overlay by what they address."""
    overlay = packaged_rules() / "overlays" / OVERLAY
    found: dict[KeyPath, list[Location]] = {}
    for path in load_platform(platform, [overlay]).files:
        if not Path(path).is_relative_to(overlay):
            continue
        source = read_yaml(path)
        for address, place in _addressed(source):
            found.setdefault(address, []).append(source.key_at(place))
    return found


def _addressed(source: YamlSource) -> Iterator[tuple[KeyPath, KeyPath]]:
    """Every address that an overlay's file touches, with the place that does."""
    for name in source.data.get("kernels", {}):
        yield ("kernels", name), ("kernels", name)
    for oracle, table in source.data.get("oracles", {}).items():
        base: KeyPath = ("oracles", oracle)
        if "otherwise" in table:
            yield (*base, "otherwise"), (*base, "otherwise")
        for name in table.get("backends", {}):
            yield (*base, "backends", name), (*base, "backends", name)
        for word, cases in table.get("requests", {}).items():
            place = (*base, "requests", word)
            yield place, place
            for backend in _backends_of(cases):
                yield (*base, "backends", backend), place
        for section in ("assume", "shortcuts", "switches", "adjust"):
            for i, entry in enumerate(table.get(section, ())):
                if "replaces" in entry:
                    yield (*base, section, entry["replaces"]), (*base, section, i)
                if "move" in entry:
                    yield (*base, "backends", entry["move"]), (*base, section, i)


def _backends_of(cases: Any) -> Iterator[str]:
    if isinstance(cases, str):
        yield cases
    elif isinstance(cases, dict):
        yield from _backends_of(cases["use"])
    else:
        for case in cases:
            yield from _backends_of(case)


def document() -> str:
    """``docs/quirks.md``: a table per platform."""
    parts = [INTRODUCTION]
    for platform in PLATFORMS:
        head = ["where", "what happens", "what was meant", "corrected by"]
        parts.append(f"\n## {platform}\n\n{markdown.table(head, map(_cells, quirks(platform)))}\n")
    return "".join(parts)


def _cells(quirk: Quirk) -> tuple[str, str, str, str]:
    where = f"{quirk.oracle}, {quirk.subject}" if quirk.oracle else quirk.subject
    corrected = [_link(location) for location in quirk.corrections]
    if quirk.uncorrected:
        corrected.append(f"{'in part: ' if corrected else 'not: '}{quirk.uncorrected}")
    return (
        f"{where} ({_link(quirk.location)})",
        quirk.happens,
        quirk.meant,
        ", ".join(corrected),
    )


def _link(location: Location) -> str:
    name = Path(location.file).relative_to(packaged_rules()).as_posix()
    return f"[{name}:{location.line}](../rules/{name}#L{location.line})"


def main(arguments: list[str] | None = None) -> int:
    """Print the document, or write it to ``docs/quirks.md`` with ``--write``."""
    return write_page("moe_rules.reporting.quirks", "quirks.md", document, arguments)


if __name__ == "__main__":
    sys.exit(main())
