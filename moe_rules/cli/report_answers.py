"""The answers of one set of rules on one machine: decided and explained once for all alike.

Deployments that no rule of an oracle tells apart share a decision: all that have the same values of
the facts that the oracle asks.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from moe_rules.analysis.nearest import Neighbours, serves, to_be_served
from moe_rules.analysis.questions import Questions
from moe_rules.cli.deployment import Question
from moe_rules.cli.derivations import Derived
from moe_rules.cli.errors import UserError
from moe_rules.engine.decision import Decision
from moe_rules.engine.explanation import Weighing
from moe_rules.language.rules import AUTO
from moe_rules.models.errors import CheckpointRefusedError
from moe_rules.reporting.report.tables import Groups, Tables
from moe_rules.selectors.ranges import TokenRange, boundaries, decide_by_num_tokens
from moe_rules.selectors.selector import Selector
from moe_rules.vocabulary.fact_values import FactValue
from moe_rules.vocabulary.record import Record

SHOWN = ("weight_key", "activation_key", "activation", "in_dtype", "all2all", "num_experts")
"""Facts that errors show, whatever the rules ask."""


class Made(Record):
    """A decision in the tables: its position, and what an answer says besides.

    ``changes`` are the facts in which a request differs from none.
    """

    position: int
    backend: str | None
    failed: bool
    changes: Mapping[str, FactValue]


class Answer(Record):
    """What comes of the layers of a deployment: positions, and the facts of each kind of layer."""

    outcome: int
    decisions: Sequence[int | None] = ()
    facts: Sequence[Groups] = ()


class Known(Record):
    """A question's decisions by request, which others share, and its own facts."""

    shared: dict[str, Made]
    facts: Groups


class Side:
    """The answers of one set of rules on one machine.

    ``neighbours`` are compiled oracles by the fingerprint of their rules, which machines share.
    """

    def __init__(
        self,
        selector: Selector,
        tables: Tables,
        neighbours: dict[tuple[str, str], Neighbours],
    ) -> None:
        self.selector = selector
        self._neighbours = neighbours
        self._tables = tables
        self._asked: dict[str, list[str]] = {}
        self._shared: dict[tuple[Any, ...], dict[str, Made]] = {}
        self._weighed: dict[int, dict[Any, Weighing]] = {}
        self._known: dict[int, tuple[Question, Known]] = {}

    def requests(self, derived: Derived) -> Iterator[str]:
        """What the oracles of some layers may be asked for by name."""
        if isinstance(derived, tuple):
            for question in derived:
                if question.oracle is not None:
                    yield from self.selector.rules.oracles[question.oracle].requests

    def answer(self, derived: Derived, request: str, *, nearest: bool) -> Answer:
        """What comes of some layers; ``nearest``: with the least changes where nothing serves."""
        outcomes = self._tables.tables["outcomes"]
        if isinstance(derived, CheckpointRefusedError):
            return Answer(outcomes.add({"refused": self._tables.string(str(derived))}))
        if isinstance(derived, UserError):
            return Answer(outcomes.add({"invalid": self._tables.string(str(derived))}))
        layers, decisions, facts = zip(
            *(self._layer(question, request, nearest) for question in derived), strict=True
        )
        return Answer(outcomes.add({"layers": list(layers)}), decisions, facts)

    def _layer(
        self, question: Question, request: str, nearest: bool
    ) -> tuple[dict[str, Any], int | None, Groups]:
        strings = self._tables.strings
        found: dict[str, Any] = {"layers": _runs(question.layers)}
        if question.notes:
            found["notes"] = strings(question.notes)
        position: int | None = None
        groups: Groups = {}
        if question.oracle is None:
            refusals = question.load_refusals(None)
        else:
            known = self._known_of(question, nearest)
            made = known.shared.get(request) or self._make(question, request, known.shared)
            found["oracle"] = self._tables.string(question.oracle)
            concerning = [one for one in question.loading if one.concerns(made.backend)]
            refusals = [] if made.failed else [one.reason for one in concerning]
            position = made.position
            groups = self._tables.changed_facts(known.facts, made.changes)
        if refusals:
            found["load_refusals"] = strings(refusals)
        return found, position, groups

    def _known_of(self, question: Question, nearest: bool) -> Known:
        """What is known of a question, whatever is requested."""
        assert question.oracle is not None
        found = self._known.get(id(question))
        if found is None:
            facts = {**question.facts, "moe_backend": AUTO}
            decision = self.selector.decide(question.oracle, facts)
            asked = self._asked_by(question.oracle)
            key = (
                question.oracle,
                *(facts.get(name) for name in asked),
                *(decision.facts.get(name) for name in asked),
                frozenset(facts.keys() & set(asked)),
            )
            shared = self._shared.setdefault(key, {})
            if AUTO not in shared or (nearest and shared[AUTO].failed):
                decision.sharing(self._weighed.setdefault(id(shared), {}))
                shared[AUTO] = self._made(decision, facts, {}, nearest=nearest)
            known = Known(shared, self._tables.facts(decision.facts))
            found = self._known[id(question)] = (question, known)
        return found[1]

    def _make(self, question: Question, request: str, shared: dict[str, Made]) -> Made:
        """The decision of a request, of which those of no request have the same facts."""
        oracle = question.oracle
        assert oracle is not None
        plain = self.selector.decide(oracle, {**question.facts, "moe_backend": AUTO}).facts
        facts = {**question.facts, "moe_backend": request}
        decision = self.selector.decide(oracle, facts)
        changes = {
            name: value
            for name, value in decision.facts.items()
            if name not in plain or plain[name] != value or type(plain[name]) is not type(value)
        }
        if changes.keys() <= {"moe_backend"} and not self._kernels_ask_request(oracle):
            decision.sharing(self._weighed[id(shared)])
        shared[request] = self._made(decision, facts, changes)
        return shared[request]

    def _made(
        self,
        decision: Decision,
        facts: Mapping[str, FactValue],
        changes: Mapping[str, FactValue],
        *,
        nearest: bool = False,
    ) -> Made:
        ways = self._least_changes(decision) if nearest and decision.failed else []
        ranges: tuple[TokenRange, ...] = ()
        if self._tells_calls_apart(decision.oracle):
            ranges = decide_by_num_tokens(self.selector, decision.oracle, facts)
        position = self._tables.decision(decision, ways, ranges if len(ranges) > 1 else ())
        return Made(position, decision.backend, decision.failed, changes)

    @functools.cache  # noqa: B019
    def _tells_calls_apart(self, oracle: str) -> bool:
        return any(boundaries(self.selector.rules, oracle))

    @functools.cache  # noqa: B019
    def _kernels_ask_request(self, oracle: str) -> bool:
        backends = self.selector.rules.oracles[oracle].backends.values()
        conditions = [one.requires for one in backends]
        for one in backends:
            for choice in one.choices:
                conditions += [choice.when, choice.kernel.condition]
        return any("moe_backend" in one.fact_names() for one in conditions)

    def _least_changes(self, decision: Decision) -> list[str]:
        """The least changes after which a backend serves, in words."""
        rules = self.selector.rules
        key = (rules.fingerprint, decision.oracle)
        neighbours = self._neighbours.get(key)
        if neighbours is None:
            neighbours = Neighbours(rules.replaced(requested={}), decision.oracle, serves)
            self._neighbours[key] = neighbours
        return to_be_served(neighbours.nearest(decision.deployment), rules.platform)

    def _asked_by(self, oracle: str) -> list[str]:
        """The facts by which a decision and its explanation may differ."""
        names = self._asked.get(oracle)
        if names is None:
            questions = Questions()
            questions.add_oracle(self.selector.rules, oracle)
            found = {*questions.facts(), *SHOWN} - {"moe_backend"}
            names = self._asked[oracle] = sorted(found)
        return names


def _runs(layers: Sequence[int]) -> list[int]:
    """First and last of each run of numbers."""
    runs: list[int] = []
    for index in layers:
        if runs and index == runs[-1] + 1:
            runs[-1] = index
        else:
            runs += [index, index]
    return runs
