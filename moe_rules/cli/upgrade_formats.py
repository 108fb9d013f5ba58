"""How ``upgrade`` writes its answer: text, Markdown, JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from moe_rules.cli.difference_formats import (
    item_of,
    lines_of,
    read_otherwise,
)
from moe_rules.cli.name_changes import NameChange
from moe_rules.cli.render import at_places, columns
from moe_rules.cli.upgrading import KINDS, Asked, Served, Upgrade
from moe_rules.reporting.base import counted
from moe_rules.reporting.markdown import table, words


def as_text(found: Upgrade, show: int) -> str:
    """Model by model what its layers get, then the regions that differ, then names."""
    blocks = [[title(found)]]
    for asked in found.asked:
        blocks.append(list(_model_lines(asked)))
        for kind, regions in asked.regions().items():
            for one in regions[:show]:
                first, *rest = lines_of(one, found.after)
                blocks.append([f"{KINDS[kind]}: {first}", *rest])
            blocks.append(_rest(len(regions), show))
    blocks.append(["Names", *name_lines(found.names, "  ")] if found.names else [])
    return "\n\n".join("\n".join(block) for block in [*blocks, [summary(found)]] if block)


def as_markdown(found: Upgrade, show: int) -> str:
    """The same with lists and tables, for a page or a pull request."""
    blocks = [[f"## {title(found)}"]]
    if found.names:
        blocks += [["### Names"], name_lines(found.names, "- ")]
    for asked in found.asked:
        if asked.model is not None:
            served = _served_table(asked, found)
            odd = [f"- {words(line)}" for line in _odd_lines(asked)]
            blocks += [[f"### {words(asked.model)}"], [served], odd]
        for kind, regions in asked.regions().items():
            items = [item_of(one, found.after, one.where) for one in regions[:show]]
            blocks += [[f"#### {KINDS[kind]}"], [line for item in items for line in item]]
            blocks.append(_rest(len(regions), show))
    texts = map("\n".join, [*blocks, [summary(found)]])
    return "\n\n".join(text for text in texts if text)


def as_json(found: Upgrade, show: int) -> str:
    """Everything, whatever ``show`` says."""
    data: dict[str, Any] = {"from": found.before.name, "to": found.after.name, "equal": found.equal}
    data["names"] = [
        {
            "kind": one.kind,
            "name": one.name,
            "change": "appears" if one.appears else "vanishes",
            "where": [{"platform": where, "oracle": oracle} for where, oracle in one.where],
        }
        for one in found.names
    ]
    data["asked"] = [
        {
            "model": asked.model,
            "layers": [_plain_served(one) for one in asked.served],
            "differences": [
                {"kind": kind, **one.difference.to_dict(), "subjects": [*map(str, one.subjects)]}
                for kind, regions in asked.regions().items()
                for one in regions
            ],
        }
        for asked in found.asked
    ]
    return json.dumps(data, indent=2)


FORMATS: dict[str, Callable[[Upgrade, int], str]] = {
    "text": as_text,
    "markdown": as_markdown,
    "json": as_json,
}


def title(found: Upgrade) -> str:
    """From which release to which."""
    return f"From {found.before.name} to {found.after.name}"


def summary(found: Upgrade) -> str:
    """One line: how much differs."""
    if found.equal:
        return f"{title(found)} nothing changes: all is decided alike"
    layers = [one for asked in found.asked for one in asked.served]
    changed = [one for one in layers if one.kind is not None]
    regions = sum(len(some) for asked in found.asked for some in asked.regions().values())
    parts = [f"{counted(regions, 'region')} of deployments that differ"]
    if layers:
        parts.insert(0, f"{len(changed)} of {counted(len(layers), 'kind')} of layers changed")
    names = counted(len(found.names), "name")
    verbs = "appears or vanishes" if len(found.names) == 1 else "appear or vanish"
    return "; ".join([*parts, f"{names} that {verbs}"])


def _model_lines(asked: Asked) -> Iterator[str]:
    if asked.model is None:
        return
    yield asked.model if asked.served else f"{asked.model}: the model has no MoE layers"
    rows = [["", one.reading.machine.name, one.reading.layers, _now(one)] for one in asked.served]
    if rows:
        yield columns(rows)
    yield from (f"  {line}" for line in _odd_lines(asked))


def _now(one: Served) -> str:
    """What a layer gets, and what it got before."""
    same = one.kind is None
    return f"{one.after}, as before" if same else f"{one.before} -> {one.after}"


def _odd_lines(asked: Asked) -> list[str]:
    """What is read otherwise of a model's layers, each once."""
    odd = [one.reading for one in asked.served if not one.reading.alike and one.reading.facts]
    return read_otherwise(odd)


def _served_table(asked: Asked, found: Upgrade) -> str:
    rows = [
        [*map(words, (one.reading.machine.name, one.reading.layers, str(one.before), _after(one)))]
        for one in asked.served
    ]
    head = ["machine", "layers", found.before.name, found.after.name]
    return table(head, rows) or "The model has no MoE layers."


def _after(one: Served) -> str:
    return "as before" if one.before == one.after else str(one.after)


def _plain_served(one: Served) -> dict[str, Any]:
    return {
        "machine": one.reading.machine.name,
        "kind": one.kind,
        **one.reading.to_dict(),
        "before": one.before.to_dict(),
        "after": one.after.to_dict(),
    }


def name_lines(names: Sequence[NameChange], indent: str) -> list[str]:
    """A line for each name that appears or vanishes, those of models together."""
    together: dict[tuple[str, str], list[str]] = {}
    lines = []
    for one in names:
        if one.where:
            lines.append(f"{one.kind} {one.name} {one.in_words} ({at_places(one.where)})")
        else:
            together.setdefault((f"{one.kind}s", one.in_words), []).append(one.name)
    lines += [f"{kind}: {', '.join(some)} ({word})" for (kind, word), some in together.items()]
    return [indent + line for line in lines]


def _rest(count: int, show: int) -> list[str]:
    return [f"... and {count - show} more of that kind (--show)"] if count > show else []
