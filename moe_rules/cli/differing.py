"""The comparison that ``diff`` makes: of which deployments, and how its answer is written."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from moe_rules.analysis.difference import Answer, Difference, differences
from moe_rules.analysis.worlds import ImpossibleError
from moe_rules.cli.errors import UserError
from moe_rules.cli.narrowing import machines_of, platforms_of
from moe_rules.cli.readings import Reading, readings
from moe_rules.cli.rule_sets import RuleSet
from moe_rules.cli.stated import Stated
from moe_rules.cli.witness import explain_command
from moe_rules.language.rules import PlatformRules
from moe_rules.machines.machine import Machine, foreign_facts
from moe_rules.vocabulary.fact_values import FactValue, in_words, plain
from moe_rules.vocabulary.facts import FACTS
from moe_rules.vocabulary.record import Record

NARROWING = ("platform", "machine", "oracle", "model", "set")
"""The options that may leave no deployment."""


LEAST_PERCENT = 0.001
"""Below that no figure is said."""


class Scope(Record):
    """Deployments that are compared: of one oracle (None: of all), with some facts fixed."""

    platform: str
    machine: Machine | None
    oracle: str | None
    facts: Mapping[str, FactValue]
    subject: str


class Found(Record):
    """A region, and the machines or layers for which it was found, where these were asked for."""

    difference: Difference
    subjects: tuple[str, ...]


class Comparison(Record):
    """What was compared, and every region in which it differs, the largest first.

    ``compared`` are platforms and oracles. ``readings`` are the layers of a model that the two read
    otherwise, which are in no region.
    """

    before: RuleSet
    after: RuleSet
    compared: tuple[tuple[str, str], ...]
    platforms: tuple[str, ...]
    subjects: tuple[str, ...]
    differences: tuple[Found, ...]
    readings: tuple[Reading, ...] = ()

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return not self.differences and not self.readings


class NothingComparedError(UserError):
    """No deployment is what the options say."""


def compare(args: argparse.Namespace, before: RuleSet, after: RuleSet) -> Comparison:
    """Compare what the options ask.

    Raises UserError (NothingComparedError where no deployment is asked about), or an error of the
    libraries.
    """
    read: list[Reading] = []
    scopes = list(_scopes(args, before, after, read))
    platforms = tuple(dict.fromkeys(scope.platform for scope in scopes))
    rules = {name: (before.load(name), after.load(name)) for name in platforms}
    compared: dict[tuple[str, str], None] = {}
    found: dict[str, tuple[Difference, list[str]]] = {}
    for scope in scopes:
        one, other = rules[scope.platform]
        oracles = dict.fromkeys((*one.oracles, *other.oracles))
        wanted = [scope.oracle] if scope.oracle is not None else args.oracle or oracles
        for oracle in wanted:
            if args.oracle and oracle not in args.oracle:
                continue
            compared[scope.platform, oracle] = None
            if one.fingerprint == other.fingerprint:
                continue
            for difference in _differences(scope, one, other, oracle):
                key = json.dumps({**plain_of(difference), "witness": None}, sort_keys=True)
                found.setdefault(key, (difference, []))[1].append(scope.subject)
    otherwise = tuple(reading for reading in read if not reading.alike)
    if not compared and not otherwise:
        given = [f"--{name}" for name in NARROWING if getattr(args, name)]
        raise NothingComparedError(
            f"nothing is compared: no deployment is what {' and '.join(given)} say"
        )
    ordered = sorted(found.values(), key=lambda item: -item[0].share)
    return Comparison(
        before,
        after,
        tuple(compared),
        platforms,
        tuple(dict.fromkeys(scope.subject for scope in scopes if scope.subject)),
        tuple(Found(one, tuple(filter(None, names))) for one, names in ordered),
        otherwise,
    )


def _differences(
    scope: Scope, before: PlatformRules, after: PlatformRules, oracle: str
) -> Iterator[Difference]:
    try:
        yield from differences(before, after, oracle, machine=scope.machine, facts=scope.facts)
    except ImpossibleError as error:
        about = scope.subject or scope.platform
        raise UserError(f"nothing is compared for {about}: {error}") from None


def _scopes(
    args: argparse.Namespace, before: RuleSet, after: RuleSet, read: list[Reading]
) -> Iterator[Scope]:
    """What is compared. The layers of a model are added to ``read``."""
    stated = Stated.read(args)
    machines = machines_of(args)
    wanted = platforms_of(args, machines)
    fixed = {n: v for group in stated.groups.values() for n, v in group.items()}
    fixed |= {name: value for name, value in stated.switches.items() if name in _set(args)}
    wanted = [platform for platform in wanted if _may_have(platform, fixed)]
    if not machines:
        if args.software is not None:
            raise UserError("--software goes with --machine or --model")
        for platform in wanted:
            yield Scope(platform, None, None, fixed, "")
        return
    for machine in machines:
        if machine.device not in wanted:
            continue
        if args.model is None:
            yield Scope(machine.device, machine, None, fixed, machine.name)
        else:
            found = readings(args, stated, machine, before, after)
            read += found
            yield from _of_model(found, fixed)


def _may_have(platform: str, fixed: Mapping[str, FactValue]) -> bool:
    """Whether a kind of device may have some facts: they are not those of another kind."""
    own = {"device": platform, **foreign_facts(platform)}
    return all(fixed[name] == value for name, value in own.items() if name in fixed)


def _set(args: argparse.Namespace) -> set[str]:
    """The facts that ``--set`` names: switches of the environment do not narrow anything."""
    return {text.partition("=")[0].strip() for text in args.set}


def _of_model(found: list[Reading], fixed: Mapping[str, FactValue]) -> Iterator[Scope]:
    """A model's layers on a machine that both read alike. What users may ask for stays open."""
    for reading in found:
        question = reading.after
        if not reading.alike or isinstance(question, str) or question.oracle is None:
            continue
        facts = {n: v for n, v in question.facts.items() if FACTS[n].group != "request"}
        for name in ("model_type", "moe_activation_override"):
            if name in question.facts:
                facts[name] = question.facts[name]
        machine = reading.machine
        yield Scope(machine.device, machine, question.oracle, {**facts, **fixed}, reading.subject)


# Formats ---------------------------------------------------------------------------------------


def as_json(found: Comparison, show: int) -> str:
    """Every region, whatever ``show`` says."""
    differences = [
        {**plain_of(one.difference), **({"subjects": list(one.subjects)} if one.subjects else {})}
        for one in found.differences
    ]
    read = {"readings": [plain_reading(one) for one in found.readings]} if found.readings else {}
    return json.dumps({"equal": found.equal, "differences": differences, **read}, indent=2)


def plain_of(one: Difference) -> dict[str, Any]:
    """A region in plain form."""
    return {
        "oracle": one.oracle,
        "platform": one.platform,
        "of": one.of,
        "when": one.when[0] if len(one.when) == 1 else {"any": list(one.when)},
        "exact": one.exact,
        "share": one.share,
        "witness": {name: plain(value) for name, value in one.witness.items()},
        "before": plain_answer(one.before),
        "after": plain_answer(one.after),
    }


def plain_reading(one: Reading) -> dict[str, Any]:
    """Layers that are read otherwise, in plain form."""
    said: dict[str, Any] = {
        side: {"why": question} if isinstance(question, str) else {"oracle": question.oracle}
        for side, question in (("before", one.before), ("after", one.after))
    }
    facts = {name: {"before": a, "after": b} for name, (a, b) in one.facts.items()}
    return {"subject": one.subject, **said, "facts": facts}


def plain_answer(answer: Answer) -> dict[str, str | None]:
    """What a layer gets, in plain form."""
    said: dict[str, str | None] = {"backend": answer.backend, "kernel": answer.kernel}
    return said if answer.error is None else {**said, "error": answer.error}


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
    lines += table_of(found.differences[:show], found.after)
    return "\n".join([*lines, *([""] if found.differences else []), _summary(found, show)])


def table_of(regions: Sequence[Found], after: RuleSet) -> list[str]:
    """Regions as a table in Markdown, none if there are none."""
    if not regions:
        return []
    lines = [
        "| oracle | platform | before | after | conditions | a deployment |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for one in regions:
        cells = [one.difference.oracle, one.difference.platform, *cells_of(one, after)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def cells_of(one: Found, after: RuleSet) -> list[str]:
    """A region as cells of a table in Markdown: before, after, conditions, a deployment."""
    difference = one.difference
    conditions = "<br>".join(_escaped(text) for text in _conditions(difference))
    for_whom = f"<br>for {_some(one.subjects)}" if one.subjects else ""
    command = f"`{_cell(_see(difference, after))}`" if difference.witness else ""
    return [str(difference.before), str(difference.after), conditions + for_whom, command]


def as_github(found: Comparison, show: int) -> str:
    """An annotation for each region, and the summary."""
    title = "A model is read otherwise"
    lines = [f"::notice title={title}::{read_otherwise(one)}" for one in found.readings]
    for one in found.differences:
        difference = one.difference
        title = f"{difference.oracle} on {difference.platform} decides differently"
        text = "; ".join([_change(difference, "->"), *_conditions(difference)])
        lines.append(f"::notice title={title}::{text}".replace("\n", "%0A"))
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
    return text.replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


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


def counted(count: int, word: str) -> str:
    """A number of things in words: "1 region", "2 regions"."""
    return f"{count} {word}{'' if count == 1 else 's'}"


def _see(one: Difference, rules: RuleSet) -> str:
    """The command that shows what happens to the deployment of a difference."""
    return explain_command(one.platform, one.oracle, one.witness, rules.options)
