"""Proves policies of an oracle's rules: of all deployments at once, or by a counterexample."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from moe_rules.analysis.compiled import Compiled, compile_oracle
from moe_rules.analysis.conditions import Conditions
from moe_rules.analysis.diagram import Node, Value
from moe_rules.analysis.difference import Answer, answer_of
from moe_rules.analysis.policies import Policy
from moe_rules.analysis.questions import clauses
from moe_rules.engine.selection import Result
from moe_rules.files.problems import Location, Problem
from moe_rules.language.fact_tests import AnyTest, FactTest, NotTest, OneOf, Prefix
from moe_rules.language.rules import Oracle, PlatformRules
from moe_rules.vocabulary.fact_values import FactValue, did_you_mean


@dataclass(frozen=True)
class Verdict:
    """What a policy comes to for one oracle.

    ``met``: some possible deployment is one of its deployments. ``witness`` are the facts of one
    that contradicts it, if there is one, with what comes out for it and, for ``same_as``, what
    comes out with the other facts.
    """

    met: bool
    witness: Mapping[str, FactValue] | None = None
    answer: Answer | None = None
    other: Answer | None = None

    @property
    def proven(self) -> bool:
        """No possible deployment contradicts the policy."""
        return self.witness is None


def prove(policy: Policy, rules: PlatformRules, oracle: str) -> Verdict:
    """Prove a policy for one oracle. Raises KeyError for one that the rules do not have."""
    compiled = compile_oracle([rules], oracle, conditions=[policy.when], moved_to=policy.same_as)
    diagrams, (selection,) = compiled.space.diagrams, compiled.selections
    when = Conditions(compiled.space).applies(policy.when, dict(selection.facts))
    where = diagrams.both(compiled.possible, when)
    if where is diagrams.false:
        return Verdict(met=False)
    moves = compiled.space.moves(policy.same_as)
    others = diagrams.moved(selection.results, moves)
    if policy.outcome is None:
        where = diagrams.both(where, diagrams.moved(compiled.possible, moves))
        against = diagrams.apply(_differ, selection.results, others)
    else:
        against = diagrams.map(
            lambda result: _is_as(policy, result) is policy.never, selection.results
        )
    bad = diagrams.both(where, against)
    if bad is diagrams.false:
        return Verdict(met=True)
    return _contradicted(compiled, bad, others if policy.outcome is None else None)


def _contradicted(compiled: Compiled, bad: Node, others: Node | None) -> Verdict:
    space, (selection,) = compiled.space, compiled.selections
    witness = compiled.witness(bad)
    point = space.point(space.facts(space.diagrams.point(bad)))
    other = None if others is None else answer_of(space.diagrams.at(others, point))
    return Verdict(True, witness, answer_of(space.diagrams.at(selection.results, point)), other)


def _differ(one: Value, other: Value) -> bool:
    return answer_of(one) != answer_of(other)


def _is_as(policy: Policy, result: Value) -> bool:
    """Whether an outcome is as the policy describes."""
    assert isinstance(result, Result)
    assert policy.outcome is not None
    facts: dict[str, FactValue] = {
        "backend": result.backend,
        "kernel": result.kernel,
        "error": result.error,
        "how": result.how,
    }
    return policy.outcome.holds(facts) is True


def outcome_names(oracles: Iterable[Oracle]) -> dict[str, set[str]]:
    """The backends and kernels that may come out of some oracles."""
    known: dict[str, set[str]] = {"backend": set(), "kernel": set()}
    for oracle in oracles:
        known["backend"] |= {*oracle.backends, *filter(None, [oracle.otherwise.backend])}
        own = [step.backend for step in (*oracle.shortcuts, *oracle.switches) if step.backend]
        for backend in (*oracle.backends.values(), *own):
            known["backend"].add(backend.name)
            known["kernel"] |= {choice.kernel.class_name for choice in backend.choices}
    return known


def name_problems(policy: Policy, rules: Mapping[str, PlatformRules]) -> Iterator[Problem]:
    """Backends and kernels that no rules know of which a policy speaks: it would say nothing."""
    if policy.outcome is None:
        return
    known = outcome_names(
        o for one in rules.values() for n, o in one.oracles.items() if n in policy.oracles
    )
    for clause in clauses(policy.outcome):
        for word, met in _words(clause.test, known.get(clause.fact, set())):
            if clause.fact in known and not met:
                yield unknown_name(clause.fact, word, known[clause.fact], clause.location)


def unknown_name(kind: str, word: str, known: Collection[str], place: Location) -> Problem:
    """The finding of a backend or kernel that there is not."""
    message = f"no {kind} is called {word!r}{did_you_mean(word, known)}"
    return Problem(f"unknown-{kind}", message, place)


def _words(test: FactTest, names: set[str]) -> Iterator[tuple[str, bool]]:
    """Names and beginnings in a test, and whether there are such names."""
    match test:
        case OneOf():
            yield from ((str(word), word in names) for word in test.values if word is not None)
        case Prefix():
            met = any(name.startswith(test.prefix) for name in names)
            yield f"{test.prefix}*", met
        case NotTest():
            yield from _words(test.test, names)
        case AnyTest():
            for part in test.tests:
                yield from _words(part, names)
