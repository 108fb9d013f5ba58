"""What ``upgrade`` finds: how models are served by two releases, and every region that differs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Literal

from moe_rules.analysis.difference import Answer, answer_of
from moe_rules.cli.deployment import Question
from moe_rules.cli.differing import Comparison, Found, NothingComparedError, compare
from moe_rules.cli.errors import NoMoELayersError, UserError
from moe_rules.cli.model_files import read_model
from moe_rules.cli.name_changes import NameChange, Where, name_changes
from moe_rules.cli.narrowing import machines_of, platforms_of
from moe_rules.cli.readings import Reading, readings
from moe_rules.cli.render import will_not_load
from moe_rules.cli.rule_sets import RuleSet
from moe_rules.cli.stated import Stated
from moe_rules.machines.machine import Machine
from moe_rules.selectors.selector import Selector
from moe_rules.vocabulary.record import Record

Kind = Literal["ceases", "begins", "backend", "kernel", "error"]
KINDS: dict[Kind, str] = {
    "ceases": "No longer served",
    "begins": "Served now",
    "backend": "Another backend",
    "kernel": "Another kernel of the backend",
    "error": "Refused otherwise",
}
"""How a change is called, the gravest first."""


def kind_of(before: Answer, after: Answer) -> Kind | None:
    """What kind of change it is; None if it is none."""
    if before == after:
        return None
    if before.error or after.error:
        return "error" if before.error and after.error else "begins" if before.error else "ceases"
    return "kernel" if before.backend == after.backend else "backend"


class Served(Record):
    """Layers of a model on a machine, and what they get where users ask for nothing."""

    reading: Reading
    before: Answer
    after: Answer

    @property
    def kind(self) -> Kind | None:
        """What kind of change it is; None if it is none."""
        return kind_of(self.before, self.after)


class Asked(Record):
    """A model (None: any layer), what its layers get, and the regions that differ.

    ``comparison`` is None where nothing can be compared, for no release reads a layer of it.
    """

    model: str | None
    served: tuple[Served, ...]
    comparison: Comparison | None

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        alike = all(one.kind is None and one.reading.alike for one in self.served)
        return alike and (self.comparison is None or self.comparison.equal)

    def regions(self) -> dict[Kind, list[Found]]:
        """The regions that differ by kind, the gravest first."""
        found: dict[Kind, list[Found]] = {kind: [] for kind in KINDS}
        for one in self.comparison.differences if self.comparison else ():
            kind = kind_of(one.difference.before, one.difference.after)
            assert kind is not None
            found[kind].append(one)
        return {kind: some for kind, some in found.items() if some}


class Upgrade(Record):
    """Two releases, what was asked about, and the names that differ."""

    before: RuleSet
    after: RuleSet
    asked: tuple[Asked, ...]
    names: tuple[NameChange, ...]

    @property
    def equal(self) -> bool:
        """Whether all is decided alike and no name appears or vanishes.

        That a fact matters where it did not changes nothing unless a deployment differs by it.
        """
        names = all(name.kind == "fact" for name in self.names)
        return names and all(one.equal for one in self.asked)


def upgrade(args: argparse.Namespace, before: RuleSet, after: RuleSet) -> Upgrade:
    """What changes of the models that the options name, or of any layer.

    Raises UserError, or an error of the libraries.
    """
    if not args.model:
        for option in ("layer", "quantization", "quantization_config"):
            if getattr(args, option) is not None:
                raise UserError(f"--{option.replace('_', '-')} goes with --model")
        comparison = compare(args, before, after)
        everything = (Asked(None, (), comparison),)
        names = name_changes(before, after, comparison.compared, models=True)
        return Upgrade(before, after, everything, tuple(names))
    found = tuple(_of_model(args, model, before, after) for model in args.model)
    concerned = dict.fromkeys(where for one in found for where in _where(one.served))
    names = name_changes(before, after, concerned, models=False)
    return Upgrade(before, after, found, tuple(names))


def _of_model(args: argparse.Namespace, model: str, before: RuleSet, after: RuleSet) -> Asked:
    args = argparse.Namespace(**{**vars(args), "model": model})
    stated = Stated.read(args)
    name = read_model(model, after.tables()).name
    machines = machines_of(args)
    platforms = platforms_of(args, machines)
    if not platforms:
        raise NothingComparedError(args)
    try:
        found = [
            _served(reading, stated, before, after)
            for machine in machines
            if machine.device in platforms
            for reading in readings(args, stated, machine, before, after)
        ]
    except NoMoELayersError:
        return Asked(name, (), None)
    try:
        return Asked(name, tuple(found), compare(args, before, after))
    except NothingComparedError:
        return Asked(name, tuple(found), None)


def _served(reading: Reading, stated: Stated, before: RuleSet, after: RuleSet) -> Served:
    was = _answer(before, reading.machine, stated, reading.before)
    return Served(reading, was, _answer(after, reading.machine, stated, reading.after))


def _answer(rules: RuleSet, machine: Machine, stated: Stated, question: Question | str) -> Answer:
    """What a layer gets; an error in words where it is not asked for, or would not be loaded."""
    if isinstance(question, str):
        return Answer(error=question)
    decision = None
    if question.oracle is not None:
        selector = Selector(rules.load(machine.device), {**machine.facts(), **stated.switches})
        decision = selector.decide(question.oracle, question.facts)
    if refusals := question.load_refusals(decision):
        return Answer(error=will_not_load("; ".join(refusals)))
    return Answer(error="no oracle is asked") if decision is None else answer_of(decision.result)


def _where(served: Sequence[Served]) -> list[Where]:
    """The platforms and oracles that layers ask, in either release."""
    return [
        (one.reading.machine.device, question.oracle)
        for one in served
        for question in (one.reading.before, one.reading.after)
        if not isinstance(question, str) and question.oracle is not None
    ]
