"""What is asked of an oracle about a recorded case, as diagrams: outcome, order, every kernel."""

from __future__ import annotations

from collections.abc import Iterable

from moe_rules.analysis.classes import Variable
from moe_rules.analysis.compiled import compile_oracle
from moe_rules.analysis.diagram import Node
from moe_rules.analysis.questions import MISSING
from moe_rules.analysis.states import Server
from moe_rules.analysis.symbolic import Selection
from moe_rules.analysis.worlds import packaged_worlds, possible
from moe_rules.conformance.cases import Asked
from moe_rules.language.rules import Backend, PlatformRules
from moe_rules.vocabulary.facts import PER_CALL


def oracle_diagrams(
    rules: PlatformRules, oracle: str
) -> tuple[tuple[Variable, ...], tuple[Node, Node, Node], dict[Asked, Node]]:
    """One oracle's rules on all machines of a platform: the variables, and diagrams over them.

    Diagrams are those of the outcome, of the order of backends when it fell, and of whether there
    can be such a deployment, as far as the oracle asks about it; then, by backend and kernel, of
    whether that kernel takes a layer, or the backend itself (kernel None), with what is assumed for
    the backend where it is asked. Without a backend it is the first one that is asked and has the
    kernel. Where none is, it takes none.
    """
    compiled = compile_oracle([rules], oracle, facts=dict.fromkeys(PER_CALL, MISSING))
    (selection,) = compiled.selections
    # What is only simulated is recorded all the same.
    worlds = tuple(one for one in packaged_worlds().impossible if not one.simulated)
    first = selection.results, selection.orders, possible(compiled.space, worlds)
    takes = {pair: _takes(selection, *pair) for pair in _asked(selection)}
    return tuple(compiled.space.variables), first, takes


def _asked(selection: Selection) -> Iterable[Asked]:
    """Every backend and kernel that may be asked about."""
    for backend in selection.oracle.backends.values():
        yield backend.name, None
    attempted = (server.backend for server, _ in selection.attempts)
    for backend in (*selection.oracle.backends.values(), *attempted):
        for kernel in _kernels(backend):
            yield backend.name, kernel
            yield None, kernel


def _takes(selection: Selection, backend: str | None, kernel: str | None) -> Node:
    diagrams = selection.space.diagrams
    declared = selection.oracle.backends.get(backend or "")
    found = diagrams.false
    if declared is not None:
        found = _takes_if_asked(selection, Server(declared, declared.assume), kernel)
    for server, asked in reversed(selection.attempts):
        if backend in (None, server.backend.name) and kernel in _kernels(server.backend):
            takes = _takes_if_asked(selection, server, kernel)
            found = diagrams.choose(asked, takes, found)
    return found


def _takes_if_asked(selection: Selection, server: Server, kernel: str | None) -> Node:
    conditions, backend = selection.conditions, server.backend
    facts = conditions.assuming(server.assumed, selection.rule_facts)
    if kernel is None:
        return conditions.permits(backend.requires, facts)
    for choice in backend.choices:
        if choice.kernel.class_name == kernel:
            return conditions.permits(choice.kernel.condition, facts)
    return selection.space.diagrams.false


def _kernels(backend: Backend) -> list[str]:
    return [choice.kernel.class_name for choice in backend.choices]
