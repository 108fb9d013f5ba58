"""An oracle's answers to recorded cases as functions: outcome, order, and what each kernel says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moe_rules.analysis.compiled import compile_oracle
from moe_rules.analysis.diagram import Node
from moe_rules.analysis.questions import MISSING, REQUEST
from moe_rules.analysis.source import as_function
from moe_rules.analysis.states import Server
from moe_rules.analysis.worlds import packaged_worlds, possible
from moe_rules.conformance.cases import Parts
from moe_rules.language.requested import ROLE
from moe_rules.language.rules import Backend, PlatformRules
from moe_rules.vocabulary.facts import FACTS, PER_CALL
from moe_rules.vocabulary.switches import SWITCHES

_PARAMETERS = ", ".join(Parts._fields)
_PART_OF_GROUP = {
    **{name: name for name in ("platform", "software", "layer")},
    "parallel": "layer",
    "quantization": "options",
    "request": "runtime",
}
_PART_OF = {
    **{name: _PART_OF_GROUP[fact.group] for name, fact in FACTS.items()},
    **dict.fromkeys((*SWITCHES, ROLE), "switches"),
    REQUEST: "layer",
}
_READ = {name: f"{part}[{name!r}]" for name, part in _PART_OF.items()} | {
    name: name for name in ("weight_key", "activation_key")
}
"""How the value of a fact is read from the parts of a case."""


class CompiledOracle:
    """One oracle's rules on all machines of a platform, as functions of the facts of a case.

    ``backends`` are those that it declares. Functions take the :class:`Parts` of a case:
    ``result`` gives the outcome, ``order`` the order of backends when it fell, ``possible`` whether
    there can be such a deployment, as far as the oracle asks about it, and
    ``takes[backend, kernel]`` what :meth:`kernel` says. All raise LookupError where a case lacks a
    fact that is asked for, or has a value that no class has.
    """

    def __init__(self, rules: PlatformRules, oracle: str) -> None:
        compiled = compile_oracle([rules], oracle, facts=dict.fromkeys(PER_CALL, MISSING))
        self._space = compiled.space
        (self._selection,) = compiled.selections
        # What is only simulated is recorded all the same.
        worlds = tuple(one for one in packaged_worlds().impossible if not one.simulated)
        self._functions: dict[Node, Callable[..., Any]] = {}
        self.result = self._function(self._selection.results)
        self.order = self._function(self._selection.orders)
        self.possible = self._function(possible(self._space, worlds))
        self.backends = self._selection.oracle.backends
        self.takes = _Kernels(self)

    def _function(self, diagram: Node) -> Callable[..., Any]:
        found = self._functions.get(diagram)
        if found is None:
            found = as_function(self._space, diagram, _PARAMETERS, _READ).call
            self._functions[diagram] = found
        return found

    def kernel(self, backend: str | None, kernel: str | None) -> Callable[..., bool]:
        """Whether a backend's kernel takes a layer, or the backend itself (``kernel`` None).

        With what is assumed for the backend where it is asked; without a backend, that of the
        first one that is asked and has the kernel. Where none is, it takes none.
        """
        diagrams, selection = self._space.diagrams, self._selection
        declared = selection.oracle.backends.get(backend or "")
        found = diagrams.false
        if declared is not None:
            found = self._takes(Server(declared, declared.assume), kernel)
        for server, asked in reversed(selection.attempts):
            if backend in (None, server.backend.name) and kernel in _kernels(server.backend):
                found = diagrams.choose(asked, self._takes(server, kernel), found)
        return self._function(found)

    def _takes(self, server: Server, kernel: str | None) -> Node:
        conditions, backend = self._selection.conditions, server.backend
        facts = conditions.assuming(server.assumed, self._selection.rule_facts)
        if kernel is None:
            return conditions.permits(backend.requires, facts)
        for choice in backend.choices:
            if choice.kernel.class_name == kernel:
                return conditions.permits(choice.kernel.condition, facts)
        return self._space.diagrams.false


class _Kernels(dict[tuple[str | None, str | None], Callable[..., bool]]):
    """The functions of an oracle's backends and kernels, each made when it is first looked for."""

    def __init__(self, oracle: CompiledOracle) -> None:
        super().__init__()
        self._oracle = oracle

    def __missing__(self, key: tuple[str | None, str | None]) -> Callable[..., bool]:
        found = self[key] = self._oracle.kernel(*key)
        return found


def _kernels(backend: Backend) -> list[str]:
    return [choice.kernel.class_name for choice in backend.choices]
