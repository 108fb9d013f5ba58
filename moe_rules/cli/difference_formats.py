"""How ``diff`` writes its answer: text, Markdown, JSON, GitHub annotations."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from moe_rules.analysis.difference import Difference
from moe_rules.cli.differing import Comparison, Found
from moe_rules.cli.readings import Reading
from moe_rules.cli.rule_sets import RuleSet
from moe_rules.cli.witness import explain_command
from moe_rules.reporting.base import counted
from moe_rules.reporting.github import annotation
from moe_rules.reporting.markdown import table
from moe_rules.vocabulary.fact_values import in_words

LEAST_PERCENT = 0.001
"""Below that no figure is said."""


def as_json(found: Comparison, show: int) -> str:
    """Every region, whatever ``show`` says."""
    differences = [
        {**one.difference.to_dict(), **({"subjects": list(one.subjects)} if one.subjects else {})}
        for one in found.differences
    ]
    read = {"readings": [one.to_dict() for one in found.readings]} if found.readings else {}
    return json.dumps({"equal": found.equal, "differences": differences, **read}, indent=2)


def as_text(found: Comparison, show: int) -> str:
    """Some lines for each of the largest regions, and a summary."""
    lines = [read_otherwise(one) for one in found.readings]
    lines += [""] if lines else []
    for one in found.differences[:show]:
        lines += [*lines_of(one, found.after), ""]
    return "\n".join([*lines, _summary(found, show)])


def lines_of(one: Found, after: RuleSet) -> list[str]:
    """A region as lines of text: what it is, its conditions, and the command that shows one."""
    difference = one.difference
    lines = [f"{difference.oracle} on {difference.platform}: {_change(difference, '->')}"]
    lines += [f"  {text}" for text in _conditions(difference)]
    if one.subjects:
        lines.append(f"  for {_some(one.subjects)}")
    if difference.witness:
        lines.append(f"  see: {_see(difference, after)}")
    return lines


def read_otherwise(one: Reading) -> str:
    """What two rule sets read otherwise of a model's layers, as a line."""
    if isinstance(one.before, str) or isinstance(one.after, str):
        was, now = (
            question if isinstance(question, str) else f"oracle {question.oracle}"
            for question in (one.before, one.after)
        )
        return f"{one.subject}: {was} -> {now}"
    changes = {"oracle": (one.before.oracle, one.after.oracle), **one.facts}
    said = [f"{name} {was} -> {now}" for name, (was, now) in changes.items() if was != now]
    return f"{one.subject} is read otherwise: {', '.join(said)}"


def as_markdown(found: Comparison, show: int) -> str:
    """A table of the largest regions, for a pull request."""
    lines = [f"### Decisions of {found.after.name} against {found.before.name}", ""]
    lines += [f"- {_escaped(read_otherwise(one))}" for one in found.readings]
    lines += [""] if found.readings else []
    lines += [table_of(shown, found.after), ""] if (shown := found.differences[:show]) else []
    return "\n".join([*lines, _summary(found, show)])


def table_of(regions: Sequence[Found], after: RuleSet) -> str:
    """Regions as a table in Markdown."""
    return table(
        ["oracle", "platform", "before", "after", "conditions", "a deployment"],
        (
            [one.difference.oracle, one.difference.platform, *cells_of(one, after)]
            for one in regions
        ),
    )


def cells_of(one: Found, after: RuleSet) -> list[str]:
    """A region as cells of a table in Markdown: before, after, conditions, a deployment."""
    difference = one.difference
    conditions = "<br>".join(_escaped(text) for text in _conditions(difference))
    for_whom = f"<br>for {_some(one.subjects)}" if one.subjects else ""
    command = f"`{_see(difference, after)}`" if difference.witness else ""
    return [str(difference.before), str(difference.after), conditions + for_whom, command]


def as_github(found: Comparison, show: int) -> str:
    """An annotation for each region, and the summary."""
    title = "A model is read otherwise"
    lines = [annotation("notice", title, read_otherwise(one)) for one in found.readings]
    for one in found.differences:
        difference = one.difference
        title = f"{difference.oracle} on {difference.platform} decides differently"
        text = "; ".join([_change(difference, "->"), *_conditions(difference)])
        lines.append(annotation("notice", title, text))
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


def _conditions(one: Difference) -> list[str]:
    """The conditions in words, one line for each of several."""
    given = one.before if one.of == "before" else one.after
    whose = f"where {given} {'came' if one.of == 'before' else 'comes'} out"
    whole = "all of it"
    lines = [in_line(when) or whole for when in one.when]
    if not one.exact:
        lines[-1] = f"or in part of: {lines[-1]}"
    return [
        f"{whose}: {lines[0]}",
        *(line if line.startswith("or ") else f"or: {line}" for line in lines[1:]),
    ]


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


def _some(names: tuple[str, ...], most: int = 6) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def _escaped(text: str) -> str:
    return text.replace("*", "\\*").replace("<", "&lt;")


def _summary(found: Comparison, show: int) -> str:
    what = f"{counted(len(found.compared), 'oracle')} on {', '.join(found.platforms)}"
    if found.subjects:
        what += f" ({_some(found.subjects)})"
    if found.equal:
        return f"{found.before.name} and {found.after.name} decide alike everywhere: {what}"
    count = len(found.differences)
    more = f", {count - show} of them not shown (--show)" if count > show else ""
    verb = "differs" if count == 1 else "differ"
    return f"{counted(count, 'region')} of {what} {verb}{more}"


def _see(one: Difference, rules: RuleSet) -> str:
    """The command that shows what happens to the deployment of a difference."""
    return explain_command(one.platform, one.oracle, one.witness, rules.options)
