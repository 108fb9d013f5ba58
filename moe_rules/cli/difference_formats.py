"""How ``diff`` writes its answer: text, Markdown, JSON, GitHub annotations."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from moe_rules.analysis.difference import Difference
from moe_rules.cli.differing import Comparison, Found
from moe_rules.cli.readings import Reading, Subject
from moe_rules.cli.render import at_places
from moe_rules.cli.rule_sets import RuleSet
from moe_rules.cli.witness import explain_command
from moe_rules.reporting.base import counted
from moe_rules.reporting.github import annotation
from moe_rules.reporting.markdown import code, words
from moe_rules.vocabulary.fact_values import in_words, plain

LEAST_PERCENT = 0.001
"""Below that no figure is said."""
MOST_NAMES = 6
"""So many machines are named, or kinds of layers that are on the same ones."""


def as_json(found: Comparison, show: int) -> str:
    """Every region, whatever ``show`` says."""
    differences = [
        {
            **one.difference.to_dict(),
            **({"subjects": [*map(str, one.subjects)]} if one.subjects else {}),
        }
        for one in found.differences
    ]
    read = {"readings": [one.to_dict() for one in found.readings]} if found.readings else {}
    return json.dumps({"equal": found.equal, "differences": differences, **read}, indent=2)


def as_text(found: Comparison, show: int) -> str:
    """Some lines for each of the largest regions, and a summary."""
    lines = read_otherwise(found.readings)
    lines += [""] if lines else []
    for one in found.differences[:show]:
        lines += [*lines_of(one, found.after), ""]
    return "\n".join([*lines, _summary(found, show)])


def lines_of(one: Found, after: RuleSet) -> list[str]:
    """A region as lines of text: what it is, its conditions, and the command that shows one."""
    told = (f"  {lead}: {text}" for lead, text in _told(one, after))
    whose = [f"  for {_whose(one.subjects)}"] if one.subjects else []
    return [f"{one.where}: {_change(one.difference, '->')}", *whose, *told]


def read_otherwise(readings: Iterable[Reading]) -> list[str]:
    """What two rule sets read otherwise of a model's layers: a line for all of which it is said."""
    subjects: dict[str, list[Subject]] = {}
    for one in readings:
        subjects.setdefault(_otherwise(one), []).append(one.subject)
    return [f"{_whose(some)}: {said}" for said, some in subjects.items()]


def _otherwise(one: Reading) -> str:
    if isinstance(one.before, str) or isinstance(one.after, str):
        was, now = (
            question if isinstance(question, str) else f"oracle {question.oracle}"
            for question in (one.before, one.after)
        )
        return f"{was} -> {now}"
    changes = {"oracle": (one.before.oracle, one.after.oracle), **one.facts}
    said = [f"{name} {was} -> {now}" for name, (was, now) in changes.items() if was != now]
    return f"read otherwise, {', '.join(said)}"


def as_markdown(found: Comparison, show: int) -> str:
    """A list of the largest regions, for a pull request."""
    lines = [f"### Decisions of {words(found.after.name)} against {words(found.before.name)}", ""]
    lines += [f"- {words(line)}" for line in read_otherwise(found.readings)]
    lines += [""] if found.readings else []
    for one in found.differences[:show]:
        lines += item_of(one, found.after, one.where)
    lines += [""] if found.differences[:show] else []
    return "\n".join([*lines, _summary(found, show)])


def item_of(one: Found, after: RuleSet, title: str) -> list[str]:
    """A region as an item of a list in Markdown, with what is told of it in a list below."""
    told = (f"    - {lead}: {code(text)}" for lead, text in _told(one, after))
    whose = [f"    - for {words(_whose(one.subjects))}"] if one.subjects else []
    return [f"- **{title}**: {_change(one.difference, '→')}", *whose, *told]


def as_github(found: Comparison, show: int) -> str:
    """An annotation for each region, and the summary."""
    title = "A model is read otherwise"
    lines = [annotation("notice", title, line) for line in read_otherwise(found.readings)]
    for one in found.differences:
        told = (f"{lead}: {text}" for lead, text in _conditions(one.difference))
        text = "; ".join([_change(one.difference, "->"), *told])
        lines.append(annotation("notice", f"{one.where} decides differently", text))
    return "\n".join([*lines, _summary(found, len(found.differences))])


FORMATS: dict[str, Callable[[Comparison, int], str]] = {
    "text": as_text,
    "markdown": as_markdown,
    "json": as_json,
    "github": as_github,
}


def _change(one: Difference, arrow: str) -> str:
    share = f"{percent(one.share)} of its deployments, counted in classes"
    return f"{one.before} {arrow} {one.after}  ({share})"


def percent(share: float) -> str:
    """A share in percent: two digits, or that it is next to nothing."""
    value = 100 * share
    if 0 < value < LEAST_PERCENT:
        return f"less than {LEAST_PERCENT} %"
    digits = 0 if value >= 10 or not value else 1 - math.floor(math.log10(value))
    return f"{value:.{digits}f} %"


def _told(one: Found, after: RuleSet) -> list[tuple[str, str]]:
    """What is told of a region: its conditions, and how to see it; each with the words before it.

    Conditions are those of one side, and say nothing of how that comes about, so what is unusual of
    the deployment that shows it is told, too.
    """
    told = _conditions(one.difference)
    if one.besides:
        told.append(("as with", in_line({n: plain(value) for n, value in one.besides.items()})))
    if one.difference.witness and after.options is not None:
        told.append(("see", _see(one, after.options)))
    return told


def _conditions(one: Difference) -> list[tuple[str, str]]:
    """The conditions, each with the words before it."""
    given = one.before if one.of == "before" else one.after
    leads = [f"where {given} {'came' if one.of == 'before' else 'comes'} out"]
    leads += ["or"] * (len(one.when) - 1)
    if not one.exact:
        leads[-1] = f"{leads[-1]}, in part of" if len(leads) == 1 else "or in part of"
    return list(zip(leads, (in_line(when) or "all of it" for when in one.when), strict=True))


def in_line(when: Mapping[str, Any]) -> str:
    """A condition as a rule file has it in one line."""
    return ", ".join(f"{name}: {_flow(value)}" for name, value in when.items())


def _flow(value: Any) -> str:
    match value:
        case Mapping():
            return "{" + in_line(value) + "}"
        case list():
            return "[" + ", ".join(map(_flow, value)) + "]"
        case str() if value[:1] in "<>" or value.replace(".", "", 1).replace("*", "").isdigit():
            return f'"{value}"'
    return in_words(value)


def _whose(subjects: Iterable[Subject]) -> str:
    """Subjects in words, the machines of the same layers together."""
    return at_places(subjects, MOST_NAMES)


def _summary(found: Comparison, show: int) -> str:
    what = f"{counted(len(found.compared), 'oracle')} on {', '.join(found.platforms)}"
    if found.subjects:
        what += f" ({_whose(found.subjects)})"
    if found.equal:
        return f"{found.before.name} and {found.after.name} decide alike everywhere: {what}"
    count = len(found.differences)
    more = f", {count - show} of them not shown (--show)" if count > show else ""
    verb = "differs" if count == 1 else "differ"
    return f"{counted(count, 'region')} of {what} {verb}{more}"


def _see(found: Found, options: Sequence[str]) -> str:
    """The command that shows what happens to the deployment of a difference."""
    one = found.difference
    return explain_command(one.platform, one.oracle, one.witness, options, found.machine)
