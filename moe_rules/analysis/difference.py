"""Where two rule sets decide differently: every region, with its conditions and a deployment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from moe_rules.analysis.classes import Space
from moe_rules.analysis.compiled import Compiled, compile_oracle
from moe_rules.analysis.cubes import Covering, Cube
from moe_rules.analysis.diagram import Node, Value
from moe_rules.analysis.questions import MISSING
from moe_rules.analysis.symbolic import Selection
from moe_rules.analysis.worlds import ImpossibleError
from moe_rules.engine.selection import Result
from moe_rules.language.rules import Oracle, PlatformRules
from moe_rules.machines.machine import Machine
from moe_rules.vocabulary.fact_values import FactValue, plain

MOST = 4
"""Conditions by which a region is said exactly."""
SIDES: tuple[Literal["before", "after"], ...] = ("before", "after")
NO_ORACLE = "no_oracle"
"""The error of an oracle that a rule set does not have."""


@dataclass(frozen=True)
class Answer:
    """What a layer gets: a backend with its kernel's class, or an error."""

    backend: str | None = None
    kernel: str | None = None
    error: str | None = None

    def __str__(self) -> str:
        return self.error or f"{self.backend} / {self.kernel or 'no kernel'}"

    def to_dict(self) -> dict[str, str | None]:
        """Plain, JSON-serialisable form; ``error`` only where it is one."""
        said = {"backend": self.backend, "kernel": self.kernel}
        return said if self.error is None else {**said, "error": self.error}


@dataclass(frozen=True)
class Difference:
    """A region in which two rule sets decide differently, ``before`` and ``after``.

    Of all deployments that get ``before`` (or, as ``of`` says, that get ``after``) it is those that
    fulfil one of ``when``, conditions as a rule file has them. Where that would take more than a
    few, the last of them holds for all the rest, but for other deployments as well, and ``exact``
    is false. What changed clauses ask is said even where the answer implies it. ``witness`` are the
    facts of a deployment in it; ``share`` is how much of the oracle's possible deployments it is,
    counted in classes.
    """

    oracle: str
    platform: str
    before: Answer
    after: Answer
    of: Literal["before", "after"]
    when: tuple[Mapping[str, Any], ...]
    exact: bool
    witness: Mapping[str, FactValue]
    share: float

    def to_dict(self) -> dict[str, Any]:
        """Plain, JSON-serialisable form."""
        return {
            "oracle": self.oracle,
            "platform": self.platform,
            "of": self.of,
            "when": self.when[0] if len(self.when) == 1 else {"any": list(self.when)},
            "exact": self.exact,
            "share": self.share,
            "witness": {name: plain(value) for name, value in self.witness.items()},
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
        }


def differences(
    before: PlatformRules,
    after: PlatformRules,
    oracle: str,
    *,
    machine: Machine | None = None,
    facts: Mapping[str, FactValue] | None = None,
) -> Iterator[Difference]:
    """Every region in which the rules of one platform differ. None: they decide alike.

    ``machine`` and ``facts`` narrow the question as for
    :func:`moe_rules.analysis.compiled.compile_oracle`. Raises ImpossibleError where no deployment
    is left of it.
    """
    missing = [oracle not in rules.oracles for rules in (before, after)]
    if any(missing):
        if not all(missing):
            one, other = (Answer(error=NO_ORACLE if gone else None) for gone in missing)
            yield Difference(oracle, before.platform, one, other, "before", ({},), True, {}, 1.0)
        return
    if all(getattr(before, part) == getattr(after, part) for part in ("derived", "requested")) and (
        before.oracles[oracle] == after.oracles[oracle]
    ):
        return
    compiled = compile_oracle([before, after], oracle, machine=machine, facts=facts)
    if compiled.possible is compiled.space.diagrams.false:
        raise ImpossibleError(
            {n: v for n, v in compiled.space.constants.items() if v is not MISSING}
        )
    yield from regions(compiled)


def regions(compiled: Compiled) -> Iterator[Difference]:
    """Every region in which the first two rule sets of a compiled oracle differ."""
    diagrams, possible = compiled.space.diagrams, compiled.possible
    one, other = compiled.selections[:2]
    pairs = diagrams.apply(_pair, one.results, other.results)
    met = diagrams.choose(possible, pairs, diagrams.open)
    whole = diagrams.share(possible)
    told = changed_facts(one.oracle, other.oracle)
    covering = Covering(compiled.space, compiled.asked, possible, told)
    for pair in diagrams.values(met):
        if not isinstance(pair, tuple):
            continue
        region = diagrams.both(diagrams.map(partial(_is, pair), pairs), possible)
        side, cubes, exact = min(
            (
                (name, *_said(covering, region, _where(of, answer)))
                for name, of, answer in zip(SIDES, (one, other), pair, strict=True)
            ),
            # Errors have many causes, so that what is said of a backend's deployments says more.
            key=lambda said: (
                not said[2],
                dict(zip(SIDES, pair, strict=True))[said[0]].error is not None,
                sum(len(str(covering.words(cube))) for cube in said[1]),
            ),
        )
        yield Difference(
            oracle=one.oracle.name,
            platform=one.rules.platform,
            before=pair[0],
            after=pair[1],
            of=side,
            when=tuple(map(covering.words, cubes)),
            exact=exact,
            witness=compiled.witness(region, _facts_of(covering.space, cubes)),
            share=diagrams.share(region) / whole,
        )


def _facts_of(space: Space, cubes: list[Cube]) -> set[str]:
    """The facts that cubes may speak of, among them ones that follow from what rules ask."""
    levels = {level for cube in cubes for level in cube.classes}
    return {name for level in levels for name in space.variables[level].facts}


def changed_facts(one: Oracle, other: Oracle) -> set[str]:
    """The facts of clauses that only one of two oracles has, or has more often."""
    before, after = (
        Counter((c.fact, c.test) for condition in oracle.conditions() for c in condition.clauses())
        for oracle in (one, other)
    )
    return {fact for fact, _ in (before - after) + (after - before)}


def _said(covering: Covering, region: Node, given: Node) -> tuple[list[Cube], bool]:
    """A region of a larger one in a few cubes, and whether they are all of it and no more."""
    diagrams = covering.space.diagrams
    cubes, rest = covering.cubes(region, diagrams.both(given, covering.possible), MOST)
    if rest is diagrams.false:
        return cubes, True
    return [*cubes, covering.around(rest)], False


def _where(selection: Selection, wanted: Answer) -> Node:
    """Where a selection comes to an answer."""
    diagrams = selection.space.diagrams
    return diagrams.map(lambda result: answer_of(result) == wanted, selection.results)


def _pair(before: Value, after: Value) -> tuple[Answer, Answer] | None:
    one, other = answer_of(before), answer_of(after)
    return None if one == other else (one, other)


def _is(wanted: Value, value: Value) -> bool:
    return value == wanted


def answer_of(result: Value) -> Answer:
    """What a layer gets by a result."""
    assert isinstance(result, Result)
    return Answer(result.backend, result.kernel, result.error)
