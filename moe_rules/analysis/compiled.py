"""Oracles compiled for every deployment that can be: on all machines of a platform, or on one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from moe_rules.analysis.classes import Space
from moe_rules.analysis.diagram import Node
from moe_rules.analysis.questions import MISSING, Questions, Seen
from moe_rules.analysis.symbolic import Selection, compile_selection
from moe_rules.analysis.worlds import add_worlds, packaged_worlds, possible, usual_values
from moe_rules.language.conditions import Condition
from moe_rules.language.rules import PlatformRules
from moe_rules.machines.machine import Machine, facts_of, foreign_facts
from moe_rules.vocabulary.fact_values import FactValue
from moe_rules.vocabulary.facts import PER_CALL


@dataclass(frozen=True)
class Compiled:
    """One oracle of several rule sets over one space, and where in it deployments can be.

    ``asked`` are the facts that the rules ask for, rather than what makes deployments possible.
    """

    space: Space
    possible: Node
    selections: tuple[Selection, ...]
    asked: frozenset[str]

    def witness(self, region: Node, also: Collection[str] = ()) -> dict[str, FactValue]:
        """The facts of a possible deployment in a region, as usual as can be.

        They are those that the rules ask for, and ``also`` others. Raises ValueError where there
        is none.
        """
        diagrams = self.space.diagrams
        facts = self.space.facts(diagrams.point(diagrams.both(self.possible, region)))
        named = self.asked.union(also)
        return {name: value for name, value in facts.items() if name in named}


def compile_oracle(
    rules: Sequence[PlatformRules],
    oracle: str,
    *,
    machine: Machine | None = None,
    facts: Mapping[str, Seen] | None = None,
    conditions: Iterable[Condition] = (),
    deployment: Mapping[str, FactValue] | None = None,
    moved_to: Mapping[str, FactValue] | None = None,
) -> Compiled:
    """Compile an oracle of rule sets of one platform.

    ``machine`` fixes the platform and software facts, what it does not say being unknown; without
    it, they are any machine's. ``facts`` fixes further ones. What differs from call to call may be
    unknown, and so may what a ``deployment`` lacks; its values are those of some class, whatever
    they are. The space tells apart what ``conditions`` do, which are to be asked of it, and the
    values of ``moved_to`` (:meth:`Space.moves`). Raises KeyError for an oracle that a rule set does
    not have.
    """
    questions = Questions({**machine_facts(rules[0].platform, machine), **(facts or {})}, PER_CALL)
    for condition in conditions:
        questions.add_condition(condition)
    for fact, value in (moved_to or {}).items():
        questions.set(fact, value)
    for one in rules:
        questions.add_oracle(one, oracle)
    asked = questions.facts()
    impossible = add_worlds(questions, packaged_worlds())
    if deployment is not None:
        questions.unknown |= questions.facts() - deployment.keys()
    space = Space(questions, usual_values(rules[0].platform), deployment)
    selections = tuple(compile_selection(space, one, one.oracles[oracle]) for one in rules)
    return Compiled(space, possible(space, impossible), selections, asked)


def machine_facts(platform: str, machine: Machine | None) -> dict[str, Seen]:
    """The facts that are the same on all machines of a platform, or on one machine."""
    if machine is None:
        return {"device": platform, **foreign_facts(platform)}
    names = (*facts_of("platform"), *facts_of("software"))
    return {**dict.fromkeys(names, MISSING), **machine.facts()}
