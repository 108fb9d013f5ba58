"""The comparison that ``diff`` makes: of which deployments, and how its answer is written."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from moe_rules.analysis.difference import Answer, Difference, differences
from moe_rules.analysis.worlds import ImpossibleError
from moe_rules.cli import deployment
from moe_rules.cli.errors import UserError
from moe_rules.cli.rule_sets import RuleSet
from moe_rules.cli.stated import Stated
from moe_rules.cli.witness import explain_command
from moe_rules.language.rules import PlatformRules
from moe_rules.language.ruleset import PLATFORMS
from moe_rules.machines.machine import Machine, foreign_facts, load_machine, named_machines
from moe_rules.vocabulary.fact_values import FactValue, in_words, plain
from moe_rules.vocabulary.facts import FACTS
from moe_rules.vocabulary.record import Record

NARROWING = ("platform", "machine", "oracle", "model", "set")
"""The options that may leave no deployment."""


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
    """What was compared, and every region in which it differs, the largest first."""

    before: RuleSet
    after: RuleSet
    oracles: int
    platforms: tuple[str, ...]
    subjects: tuple[str, ...]
    differences: tuple[Found, ...]


def compare(args: argparse.Namespace, before: RuleSet, after: RuleSet) -> Comparison:
    """Compare what the options ask.

    Raises UserError, also where no deployment is asked about, or an error of the libraries.
    """
    scopes = list(_scopes(args))
    platforms = tuple(dict.fromkeys(scope.platform for scope in scopes))
    rules = {name: (before.load(name), after.load(name)) for name in platforms}
    compared: set[tuple[str, str]] = set()
    found: dict[str, tuple[Difference, list[str]]] = {}
    for scope in scopes:
        one, other = rules[scope.platform]
        oracles = dict.fromkeys((*one.oracles, *other.oracles))
        wanted = [scope.oracle] if scope.oracle is not None else args.oracle or oracles
        for oracle in wanted:
            if args.oracle and oracle not in args.oracle:
                continue
            compared.add((scope.platform, oracle))
            if one.fingerprint == other.fingerprint:
                continue
            for difference in _differences(scope, one, other, oracle):
                key = json.dumps({**_plain(difference), "witness": None}, sort_keys=True)
                found.setdefault(key, (difference, []))[1].append(scope.subject)
    if not compared:
        given = [f"--{name}" for name in NARROWING if getattr(args, name)]
        raise UserError(f"nothing is compared: no deployment is what {' and '.join(given)} say")
    ordered = sorted(found.values(), key=lambda item: -item[0].share)
    return Comparison(
        before,
        after,
        len(compared),
        platforms,
        tuple(dict.fromkeys(scope.subject for scope in scopes if scope.subject)),
        tuple(Found(one, tuple(filter(None, names))) for one, names in ordered),
    )


def _differences(
    scope: Scope, before: PlatformRules, after: PlatformRules, oracle: str
) -> Iterator[Difference]:
    try:
        yield from differences(before, after, oracle, machine=scope.machine, facts=scope.facts)
    except ImpossibleError as error:
        about = scope.subject or scope.platform
        raise UserError(f"nothing is compared for {about}: {error}") from None


def _scopes(args: argparse.Namespace) -> Iterator[Scope]:
    stated = Stated.read(args)
    machines = [load_machine(name, args.software) for name in args.machine or ()]
    wanted = args.platform or list(dict.fromkeys(one.device for one in machines)) or PLATFORMS
    fixed = {n: v for group in stated.groups.values() for n, v in group.items()}
    fixed |= {name: value for name, value in stated.switches.items() if name in _set(args)}
    wanted = [platform for platform in wanted if _may_have(platform, fixed)]
    if args.model is None and not machines:
        if args.software is not None:
            raise UserError("--software goes with --machine or --model")
        for platform in wanted:
            yield Scope(platform, None, None, fixed, "")
        return
    if not machines:
        machines = [one.machine(args.software or "full") for one in named_machines().values()]
    for machine in machines:
        if machine.device not in wanted:
            continue
        if args.model is None:
            yield Scope(machine.device, machine, None, fixed, machine.name)
        else:
            yield from _of_model(args, stated, machine, fixed)


def _may_have(platform: str, fixed: Mapping[str, FactValue]) -> bool:
    """Whether a kind of device may have some facts: they are not those of another kind."""
    own = {"device": platform, **foreign_facts(platform)}
    return all(fixed[name] == value for name, value in own.items() if name in fixed)


def _set(args: argparse.Namespace) -> set[str]:
    """The facts that ``--set`` names: switches of the environment do not narrow anything."""
    return {text.partition("=")[0].strip() for text in args.set}


def _of_model(
    args: argparse.Namespace, stated: Stated, machine: Machine, fixed: Mapping[str, FactValue]
) -> Iterator[Scope]:
    """A model's layers on a machine. What the user may ask for stays open."""
    from moe_rules.cli.model_files import read_model
    from moe_rules.models.errors import CheckpointRefusedError

    model = read_model(args.model)
    try:
        questions = deployment.questions_of(
            args, machine, stated, model.config, model.hf_quant_config
        )
    except CheckpointRefusedError:
        return  # there, the model is not loaded by any rules
    for question in questions:
        if question.oracle is not None:
            facts = {n: v for n, v in question.facts.items() if FACTS[n].group != "request"}
            for name in ("model_type", "moe_activation_override"):
                if name in question.facts:
                    facts[name] = question.facts[name]
            where = f"{question.layers_in_words} on {machine.name}"
            yield Scope(machine.device, machine, question.oracle, {**facts, **fixed}, where)


# Formats ---------------------------------------------------------------------------------------


def as_json(found: Comparison, show: int) -> str:
    """Every region, whatever ``show`` says."""
    differences = [
        {**_plain(one.difference), **({"subjects": list(one.subjects)} if one.subjects else {})}
        for one in found.differences
    ]
    return json.dumps({"equal": not differences, "differences": differences}, indent=2)


def _plain(one: Difference) -> dict[str, Any]:
    return {
        "oracle": one.oracle,
        "platform": one.platform,
        "of": one.of,
        "when": one.when[0] if len(one.when) == 1 else {"any": list(one.when)},
        "exact": one.exact,
        "share": one.share,
        "witness": {name: plain(value) for name, value in one.witness.items()},
        "before": _plain_answer(one.before),
        "after": _plain_answer(one.after),
    }


def _plain_answer(answer: Answer) -> dict[str, str | None]:
    said: dict[str, str | None] = {"backend": answer.backend, "kernel": answer.kernel}
    return said if answer.error is None else {**said, "error": answer.error}


def as_text(found: Comparison, show: int) -> str:
    """Some lines for each of the largest regions, and a summary."""
    lines: list[str] = []
    for one in found.differences[:show]:
        difference = one.difference
        lines.append(f"{difference.oracle} on {difference.platform}: {_change(difference, '->')}")
        lines += [f"  {text}" for text in _conditions(difference)]
        if one.subjects:
            lines.append(f"  for {_some(one.subjects)}")
        if difference.witness:
            lines.append(f"  see: {_see(difference, found.after)}")
        lines.append("")
    return "\n".join([*lines, _summary(found, show)])


def as_markdown(found: Comparison, show: int) -> str:
    """A table of the largest regions, for a pull request."""
    lines = [f"### Decisions of {found.after.name} against {found.before.name}", ""]
    if found.differences:
        lines += [
            "| oracle | platform | before | after | conditions | a deployment |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
    for one in found.differences[:show]:
        difference = one.difference
        conditions = "<br>".join(_escaped(text) for text in _conditions(difference))
        for_whom = f"<br>for {_some(one.subjects)}" if one.subjects else ""
        command = f"`{_cell(_see(difference, found.after))}`"
        cells = [
            difference.oracle,
            difference.platform,
            str(difference.before),
            str(difference.after),
            conditions + for_whom,
            command if difference.witness else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, *([""] if found.differences else []), _summary(found, show)])


def as_github(found: Comparison, show: int) -> str:
    """An annotation for each region, and the summary."""
    lines = []
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
    share = f"{100 * one.share:.2g} % of its deployments, counted in classes"
    return f"{one.before} {arrow} {one.after}  ({share})"


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
    what = f"{_counted(found.oracles, 'oracle')} on {', '.join(found.platforms)}"
    if found.subjects:
        what += f" ({_some(found.subjects)})"
    if not found.differences:
        return f"{found.before.name} and {found.after.name} decide alike everywhere: {what}"
    count = len(found.differences)
    more = f", {count - show} of them not shown (--show)" if count > show else ""
    verb = "differs" if count == 1 else "differ"
    return f"{_counted(count, 'region')} of {what} {verb}{more}"


def _counted(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _see(one: Difference, rules: RuleSet) -> str:
    """The command that shows what happens to the deployment of a difference."""
    return explain_command(one.platform, one.oracle, one.witness, rules.options)
