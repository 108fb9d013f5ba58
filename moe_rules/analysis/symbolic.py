"""An oracle's selection for all deployments at once: the pipeline of the engine, on diagrams.

Every fact is a diagram of its values, every condition one of True, False and None, and the
selection one of states (:mod:`moe_rules.analysis.states`). Each rule changes the states where it
applies. The order of the rules is that of :mod:`moe_rules.engine.selection`; ``tests/analysis``
holds the two equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from moe_rules.analysis.classes import Space
from moe_rules.analysis.conditions import Conditions, Facts
from moe_rules.analysis.diagram import Node, Value
from moe_rules.analysis.given import assumed_facts, equals, given_facts, value_of
from moe_rules.analysis.questions import REQUEST
from moe_rules.analysis.states import (
    Asking,
    Ordering,
    Server,
    adjust,
)
from moe_rules.engine.selection import How, Result, narrowed
from moe_rules.files.problems import Location
from moe_rules.language.rules import (
    AUTO,
    Assumed,
    Backend,
    Choice,
    Oracle,
    PlatformRules,
    RequestCase,
    Step,
    ValueOf,
    assumed_together,
)
from moe_rules.vocabulary.fact_values import FactValue
from moe_rules.vocabulary.facts import REQUEST_DEFAULTS


@dataclass
class Region:
    """Where a rule is reached, where it applies there, and where it decides.

    A kernel is reached where it is asked, and applies and decides where it is selected.
    """

    reached: Node
    applies: Node
    decides: Node


@dataclass
class Selection:
    """The compiled form of an oracle: the diagram of its results, and the regions of its rules.

    ``facts`` are those of a deployment, with what follows from them and without what the oracle
    assumes. ``regions`` has what stands at a place of the files; what several oracles or backends
    share has the regions of this oracle, all backends together. ``asked`` is where each kernel of a
    backend is asked, by its position; ``attempts`` are the backends that are asked, and where, as
    one comes after another. ``orders`` is the diagram of the order of backends when the decision
    fell. ``conditions`` and ``rule_facts`` are what rules were
    compiled with: the latter has what is assumed, too.
    """

    space: Space
    rules: PlatformRules
    oracle: Oracle
    results: Node
    conditions: Conditions
    facts: Facts
    rule_facts: Facts
    orders: Node
    regions: dict[Location, Region] = field(default_factory=dict)
    asked: dict[tuple[Server, int], Node] = field(default_factory=dict)
    attempts: list[tuple[Server, Node]] = field(default_factory=list)

    def result(self, facts: Mapping[str, FactValue]) -> Result:
        """The result of one deployment. Raises UnclassifiedError."""
        point = self.space.point({**REQUEST_DEFAULTS, **facts})
        found = self.space.diagrams.at(self.results, point)
        assert isinstance(found, Result)
        return found

    def serves(self, server: Server) -> list[Node]:
        """Where each of a backend's kernels takes a layer, if it is asked."""
        return serves(self.conditions, self.rule_facts, server)


def compile_selection(
    space: Space,
    rules: PlatformRules,
    oracle: Oracle,
    conditions: Conditions | None = None,
    within: Node | None = None,
) -> Selection:
    """The compiled form of an oracle, over a space that was made of its questions.

    ``conditions`` are those of another selection over the space, which knows answers already.
    Results are False where deployments are not ``within`` a region (None: everywhere).
    """
    compiler = _Compiler(space, rules, oracle, conditions or Conditions(space))
    return compiler.compile(space.diagrams.true if within is None else within)


class _Compiler:
    """Takes the states of a selection through the rules of one oracle."""

    def __init__(
        self, space: Space, rules: PlatformRules, oracle: Oracle, conditions: Conditions
    ) -> None:
        self.rules = rules
        self.oracle = oracle
        self.space = space
        self.diagrams = space.diagrams
        self.conditions = conditions
        self.given = given_facts(self.conditions, rules, oracle)
        self.facts = assumed_facts(self.conditions, oracle, self.given)
        self.regions: dict[Location, Region] = {}
        self.servers: dict[tuple[int, Assumed], Server] = {}
        self.kernels: dict[Server, list[Node]] = {}
        self.asked: dict[tuple[Server, int], Node] = {}
        self.attempts: list[tuple[Server, Node]] = []
        self.state = self.orders = self.diagrams.leaf(Ordering(oracle.priority))

    def compile(self, within: Node) -> Selection:
        self.state = self.diagrams.choose(within, self.state, self.diagrams.false)
        self._order()
        self._steps(self.oracle.shortcuts, "shortcut")
        self._request()
        self._steps(self.oracle.switches, "switch")
        self._automatic()
        self._ask()
        return Selection(
            self.space,
            self.rules,
            self.oracle,
            self.state,
            self.conditions,
            self.given,
            self.facts,
            self.orders,
            self.regions,
            self.asked,
            self.attempts,
        )

    # States ------------------------------------------------------------------------------------

    def _change(
        self, where: Node, change: Callable[[Ordering], Ordering | Asking | Result]
    ) -> None:
        """Change the selections of some region that are not decided."""

        def changed(state: Value) -> Value:
            return change(state) if isinstance(state, Ordering) else state

        self.state = self.diagrams.choose(where, self.diagrams.map(changed, self.state), self.state)

    def _undecided(self) -> Node:
        return self.diagrams.map(lambda state: isinstance(state, Ordering), self.state)

    def _note(self, place: Location, reached: Node, applies: Node, decides: Node) -> None:
        """Add to the regions of what stands at a place."""
        either, false = self.diagrams.either, self.diagrams.false
        region = self.regions.setdefault(place, Region(false, false, false))
        region.reached = either(region.reached, reached)
        region.applies = either(region.applies, applies)
        region.decides = either(region.decides, decides)

    # The pipeline ------------------------------------------------------------------------------

    def _order(self) -> None:
        for adjustment in self.oracle.adjust:
            applies = self.conditions.applies(adjustment.when, self.facts)
            before = self.state
            self._change(applies, partial(adjust, adjustment))
            differs = self.diagrams.apply(lambda one, other: one != other, before, self.state)
            self._note(adjustment.reason.location, self.diagrams.true, applies, differs)
        if self.oracle.variants is not None:
            servers = {name: self._server(b, ()) for name, b in self.oracle.backends.items()}
            self.state = self._narrow(
                self.state,
                lambda state: [servers[name] for name in state.order],
                lambda state, kept: replace(state, order=tuple(s.backend.name for s in kept)),
                list(servers.values()),
            )
        self.orders = self.diagrams.map(_order_of, self.state)

    def _narrow(
        self,
        states: Node,
        servers_of: Callable[[Ordering], list[Server]],
        keep: Callable[[Ordering, list[Server]], Ordering | Asking],
        servers: Iterable[Server],
    ) -> Node:
        """Keep the variants that the deployment asks for, where nothing is decided."""
        variants = self.oracle.variants
        assert variants is not None
        everywhere = list(dict.fromkeys(servers))
        wanted = self.conditions.value(variants.fact, self.facts)
        own = [self._own_value(server, variants.fact) for server in everywhere]

        def narrow(state: Value, wants: Value, *values: Value) -> Value:
            if not isinstance(state, Ordering):
                return state
            of = dict(zip(everywhere, values, strict=True))
            asked = servers_of(state)
            return keep(state, narrowed(asked, [of[s] for s in asked], wants, variants.fallback))

        return self.diagrams.apply(narrow, states, wanted, *own)

    def _own_value(self, server: Server, fact: str) -> Node:
        """The backend's own value of a fact, where it has one, or the deployment's."""
        own = next((value for name, value in server.assumed if name == fact), ValueOf(fact))
        return value_of(self.conditions, own, self.facts)

    def _steps(self, steps: Iterable[Step], how: How) -> None:
        for step in steps:
            reached = self._undecided()
            applies = self.diagrams.both(reached, self.conditions.applies(step.when, self.facts))
            self._step(step, how, applies)
            decides = self.diagrams.without(applies, self._undecided())
            self._note(step.reason.location, reached, applies, decides)

    def _step(self, step: Step, how: How, applies: Node) -> None:
        if step.action == "drop":
            self._drop(step.names, applies)
            return
        if step.action == "refuse":
            refused = Result(how, error=step.error, why="refused")
            self._change(applies, _to(refused))
            return
        backend = step.backend
        assert backend is not None
        if step.action == "take":
            kernel = backend.choices[0].kernel.class_name if backend.choices else None
            taken = Result(how, backend.name, kernel)
            self._change(applies, _to(taken))
            return
        server = self._server(backend, step.assume)
        for number, (choice, serving) in enumerate(self._choices(server)):
            asked = self.diagrams.both(applies, self._undecided())
            found = Result(how, backend.name, choice.kernel.class_name)
            selected = self.diagrams.both(asked, serving)
            self._change(selected, _to(found))
            self._note_choice(server, number, asked, selected)
        if step.action == "force":
            error = Result(how, error=step.error, why="request_cannot_serve")
            self._change(applies, _to(error))
        elif not step.own_kernels:
            self._drop((backend.name,), applies)

    def _drop(self, names: tuple[str, ...], where: Node) -> None:
        """Take backends out of the order in some region, where nothing is decided."""
        self._change(where, lambda state: state.without(names))
        self.orders = self.diagrams.apply(
            lambda order, state: _order_of(state) if isinstance(state, Ordering) else order,
            self.orders,
            self.state,
        )

    def _request(self) -> None:
        diagrams = self.diagrams
        name = self.conditions.value(REQUEST, self.facts)
        automatic = equals(self.conditions, name, AUTO)
        unknown = diagrams.opposite(automatic)
        for word, cases in self.oracle.requests.items():
            if word == AUTO:
                continue
            rest = diagrams.both(self._undecided(), equals(self.conditions, name, word))
            for case in cases:
                reached = rest
                applies = diagrams.both(rest, self.conditions.applies(case.when, self.facts))
                rest = diagrams.without(rest, applies)
                unknown = diagrams.without(unknown, applies)
                if not case.auto:
                    self._ask_for(case, applies)
                decides = diagrams.false if case.auto else applies
                self._note(case.reason.location, reached, applies, decides)
        refused = Result("requested", error="invalid_request", why="unknown_request")
        self._change(unknown, _to(refused))

    def _ask_for(self, case: RequestCase, applies: Node) -> None:
        """Ask the backends of a request that applies."""
        servers = [self._server(backend, case.assume) for backend in case.backends]
        end = Result("requested", error=self.oracle.request_error, why="request_cannot_serve")

        def available(state: Ordering) -> list[Server]:
            return [server for server in servers if server.backend.name not in state.withdrawn]

        def ask(state: Ordering, kept: list[Server]) -> Asking:
            return Asking(tuple(kept), "requested", end)

        if case.all_variants or self.oracle.variants is None:
            self._change(applies, lambda state: ask(state, available(state)))
        else:
            asking = self._narrow(self.state, available, ask, servers)
            self.state = self.diagrams.choose(applies, asking, self.state)

    def _automatic(self) -> None:
        """Ask the backends of the order where nothing else decided."""
        otherwise = self.oracle.otherwise
        end = Result("fallback", otherwise.backend)
        if otherwise.backend is None:
            end = end.replaced(error=otherwise.error, why="no_backend")
        servers = {name: self._server(b, ()) for name, b in self.oracle.backends.items()}
        self._change(
            self.diagrams.true,
            lambda state: Asking(tuple(servers[name] for name in state.order), "auto", end),
        )

    def _ask(self) -> None:
        """Ask backend after backend, for each of the orders in which they are asked somewhere."""
        diagrams, waiting = self.diagrams, self.state
        for state in diagrams.values(waiting):
            if not isinstance(state, Asking):
                continue
            where = rest = diagrams.map(partial(_is, state), waiting)
            answers: list[tuple[Node, Result]] = []
            for server in state.servers:
                name = server.backend.name
                for number, (choice, serving) in enumerate(self._choices(server)):
                    answers.append((serving, Result(state.how, name, choice.kernel.class_name)))
                    selected = diagrams.both(rest, serving)
                    self._note_choice(server, number, rest, selected)
                    self._note(server.backend.location, rest, selected, selected)
                    rest = diagrams.without(rest, serving)
            found = diagrams.leaf(state.end)
            for serving, result in reversed(answers):
                found = diagrams.choose(serving, diagrams.leaf(result), found)
            self.state = diagrams.choose(where, found, self.state)

    # Backends ----------------------------------------------------------------------------------

    def _server(self, backend: Backend, assume: Assumed) -> Server:
        key = (id(backend), assume)
        return self.servers.setdefault(
            key, Server(backend, assumed_together(assume, backend.assume))
        )

    def _choices(self, server: Server) -> Iterable[tuple[Choice, Node]]:
        """Each kernel of a backend, and where it takes a layer."""
        found = self.kernels.get(server)
        if found is None:
            found = self.kernels[server] = serves(self.conditions, self.facts, server)
        return zip(server.backend.choices, found, strict=True)

    def _note_choice(self, server: Server, number: int, asked: Node, selected: Node) -> None:
        """Add to the regions of a backend's kernel."""
        if number == 0:
            self.attempts.append((server, asked))
        self._note(server.backend.choices[number].kernel.location, asked, selected, selected)
        before = self.asked.get((server, number), self.diagrams.false)
        self.asked[server, number] = self.diagrams.either(before, asked)


def serves(conditions: Conditions, facts: Facts, server: Server) -> list[Node]:
    """Where each of a backend's kernels takes a layer, if it is asked."""
    facts = conditions.assuming(server.assumed, facts)
    required = conditions.permits(server.backend.requires, facts)
    return [
        conditions.diagrams.every(
            [
                required,
                conditions.applies(choice.when, facts),
                conditions.permits(choice.kernel.condition, facts),
            ]
        )
        for choice in server.backend.choices
    ]


def _order_of(state: Value) -> Value:
    return state.order if isinstance(state, Ordering) else state


def _is(wanted: Value, value: Value) -> bool:
    return wanted == value


def _to(result: Result) -> Callable[[Ordering], Result]:
    return lambda _: result
