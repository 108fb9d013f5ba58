"""Compares recorded cases with the compiled form of the rules instead of the engine's decisions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from moe_rules.analysis.classes import UnclassifiedError
from moe_rules.analysis.compiled import Compiled, compile_oracle
from moe_rules.analysis.worlds import packaged_worlds
from moe_rules.conformance.cases import Case
from moe_rules.conformance.compare import Answer, Comparer, Verdict, agrees_with
from moe_rules.selectors.selector import Selector
from moe_rules.vocabulary.fact_values import FactValue
from moe_rules.vocabulary.facts import REQUEST_DEFAULTS
from moe_rules.vocabulary.readings import Unreadable


class CompiledComparer(Comparer):
    """Decides cases by one diagram for all machines; their deployments have to be possible, too.

    Kernels' answers and orders are no part of the compiled form, and switches that cannot be read
    are none of its values: what has them is not compared.
    """

    def __init__(self, selectors: Mapping[str, Selector]) -> None:
        super().__init__(selectors)
        self._compiled: dict[tuple[str, str], Compiled] = {}

    def compare(self, case: Case) -> Verdict:
        """Compare one case."""
        facts = {**REQUEST_DEFAULTS, **case.constants, **case.request}
        platform, rules = str(facts["device"]), self.selectors[str(facts["device"])].rules
        unreadable = any(isinstance(value, Unreadable) for value in facts.values())
        if unreadable or case.reference_crashed or case.oracle not in rules.oracles:
            return Verdict(None, None, None)
        compiled = self._compiled.get((platform, case.oracle))
        if compiled is None:
            compiled = compile_oracle([rules], case.oracle)
            self._compiled[platform, case.oracle] = compiled
        notes = list(_impossible(facts))
        try:
            result = compiled.selections[0].result(facts)
        except UnclassifiedError as error:
            return Verdict(False, None, None, (*notes, str(error)))
        answer = Answer(result.backend, result.kernel, result.error)
        agrees = agrees_with(case.expect, answer, notes) and not notes
        return Verdict(agrees, None, None, tuple(notes))


def _impossible(facts: Mapping[str, FactValue]) -> Iterator[str]:
    """Why there should be no such deployment, where there is one."""
    for one in packaged_worlds().impossible:
        if not one.simulated and one.when.holds(facts) is True:
            reason = one.reason
            yield f"recorded, though impossible ({reason.location}): {reason.text}"
