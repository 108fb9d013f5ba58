"""A model's layers as two rule sets read them: their tables of models may differ, too."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any, NamedTuple

from moe_rules.cli import deployment
from moe_rules.cli.deployment import Question, layers_in_words
from moe_rules.cli.errors import NoMoELayersError
from moe_rules.cli.model_files import read_model
from moe_rules.cli.render import at_places
from moe_rules.cli.rule_sets import RuleSet
from moe_rules.cli.stated import Stated
from moe_rules.machines.machine import Machine
from moe_rules.models.errors import CheckpointRefusedError, UnknownModelError
from moe_rules.vocabulary.fact_values import FactValue, in_words, plain
from moe_rules.vocabulary.record import Record

NONE_THERE = "no MoE layer there"


class Subject(NamedTuple):
    """What an answer is about: a machine, or layers ("layers 0-47") of a model on it."""

    machine: str
    layers: str = ""

    def __str__(self) -> str:
        return at_places([self])


class Reading(Record):
    """Layers of a model on a machine, as each of two rule sets reads them.

    Text in place of a question is why there is none. ``layers`` is "layers 0-47", or empty where
    neither has any.
    """

    machine: Machine
    layers: str
    before: Question | str
    after: Question | str

    @property
    def alike(self) -> bool:
        """Whether both ask the same."""
        if isinstance(self.before, str) or isinstance(self.after, str):
            return isinstance(self.before, str) and isinstance(self.after, str)
        return _asked(self.before) == _asked(self.after)

    @property
    def subject(self) -> Subject:
        """Which layers, and where."""
        return Subject(self.machine.name, self.layers)

    @property
    def facts(self) -> dict[str, tuple[str, str]]:
        """The facts that they read otherwise, in words."""
        if isinstance(self.before, str) or isinstance(self.after, str):
            return {}
        one, other = self.before.facts, self.after.facts
        names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
        return {name: (_in_words(one.get(name)), _in_words(other.get(name))) for name in names}

    def to_dict(self) -> dict[str, Any]:
        """Plain, JSON-serialisable form."""
        said: dict[str, Any] = {
            side: {"why": question} if isinstance(question, str) else {"oracle": question.oracle}
            for side, question in (("before", self.before), ("after", self.after))
        }
        facts = {name: {"before": a, "after": b} for name, (a, b) in self.facts.items()}
        return {"subject": str(self.subject), **said, "facts": facts}


def readings(
    args: argparse.Namespace, stated: Stated, machine: Machine, before: RuleSet, after: RuleSet
) -> list[Reading]:
    """The layers of the model of the options; those that are alike to both are together.

    Raises NoMoELayersError or UnknownModelError where neither reads any, and UserError.
    """
    one = _read(args, stated, machine, before)
    other = one if before.tables() is after.tables() else _read(args, stated, machine, after)
    if isinstance(one, Exception) and isinstance(other, Exception):
        if isinstance(other, CheckpointRefusedError):
            return [Reading(machine, "", _why(one), _why(other))]
        raise other
    found: dict[tuple[str | int, ...], tuple[Question | str, Question | str, list[int]]] = {}
    for index in sorted({*_indices(one), *_indices(other)}):
        was, now = _of(one, index), _of(other, index)
        key = tuple(one if isinstance(one, str) else id(one) for one in (was, now))
        found.setdefault(key, (was, now, []))[2].append(index)
    return [Reading(machine, layers_in_words(some), was, now) for was, now, some in found.values()]


_Read = Mapping[int, Question] | CheckpointRefusedError | NoMoELayersError | UnknownModelError
"""What a rule set reads: a question by layer, or why there is none."""


def _read(args: argparse.Namespace, stated: Stated, machine: Machine, rules: RuleSet) -> _Read:
    tables = rules.tables()
    model = read_model(args.model, tables)
    try:
        questions = deployment.questions_of(args, machine.facts(), stated, model, tables=tables)
    except (CheckpointRefusedError, NoMoELayersError, UnknownModelError) as error:
        return error
    return {index: question for question in questions for index in question.layers}


def _indices(read: _Read) -> Mapping[int, Question]:
    return {} if isinstance(read, Exception) else read


def _of(read: _Read, index: int) -> Question | str:
    return _why(read) if isinstance(read, Exception) else read.get(index, NONE_THERE)


def _why(error: Exception) -> str:
    """Why there is no question, in words."""
    return "the model has no MoE layers" if isinstance(error, NoMoELayersError) else str(error)


def _asked(question: Question) -> tuple[str | None, Mapping[str, FactValue]]:
    return question.oracle, question.facts


def _in_words(value: FactValue) -> str:
    return str(in_words(plain(value)))
