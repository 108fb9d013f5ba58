"""What vLLM refuses after it has selected a backend: while it creates or loads a layer's weights.

The selection stands, but the model does not load. The tables list the checks (``loading`` in
``quantization.yaml`` for quantization methods, in ``architectures.yaml`` for model classes).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from moe_rules.models.conditions import Context, holds, passes
from moe_rules.models.sources import value_of
from moe_rules.vocabulary.record import Record


class LoadRefusal(Record):
    """Why vLLM would not load a layer, given that one of certain backends was selected.

    ``backend`` is what the selected backend's name must satisfy, as a condition of the tables.
    """

    reason: str
    backend: Any = ()

    def concerns(self, backend: str | None) -> bool:
        """Whether it holds for a layer that ``backend`` serves (None: the platform's own code)."""
        return self.backend == () or passes(backend, self.backend, "backend")


def load_refusals(checks: Iterable[Mapping[str, Any]], context: Context) -> tuple[LoadRefusal, ...]:
    """The checks that fail in a context, which must hold ``layer`` and ``parallel``."""
    found = []
    for check in checks:
        if not holds(check.get("when", {}), context):
            continue
        remainder = _remainder(check, context)
        if remainder != "":
            reason = check["because"] + (f": {remainder}" if remainder else "")
            found.append(LoadRefusal(reason, check.get("backend", ())))
    return tuple(one for index, one in enumerate(found) if one not in found[:index])


def _remainder(check: Mapping[str, Any], context: Context) -> str | None:
    """In words, what is no multiple of what; "" where it is one, None where nothing is divided."""
    if "of" not in check:
        return None
    size, unit = value_of(check["of"], context), value_of(check["multiple_of"], context)
    if not isinstance(size, int) or not isinstance(unit, int) or unit <= 0 or size % unit == 0:
        return ""
    name = check["of"].rpartition(".")[2] if isinstance(check["of"], str) else "it"
    return f"{name} {size} is not a multiple of {unit}"
