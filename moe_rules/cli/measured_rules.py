"""An overlay with the measured order of backends, range by range of tokens, and its evidence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moe_kernels.benchmark.tune.record import Measured, Record

    from moe_rules.cli.deployment import Asked
    from moe_rules.cli.tuning import TunedQuestion
    from moe_rules.vocabulary.fact_values import FactValue

NOISE = 0.97
"""A backend passes another one if it takes less than so much of its time."""

_LAYER_FACTS = (
    "num_experts",
    "experts_per_token",
    "hidden_dim",
    "intermediate_size_per_partition",
    "in_dtype",
    "ep_size",
    "weight_key",
    "activation_key",
)
_DEVICE_FACTS = ("device_name", "compute_capability", "gfx", "cpu_arch")
"""What a measurement holds for: these facts of the layer, and the first of these of the device."""


def overlay(
    asked: Asked, questions: Iterable[TunedQuestion], record: Record
) -> dict[str, Any] | None:
    """A rule file with the measured order of backends; None if that is the order of the rules."""
    oracles: dict[str, dict[str, list[Any]]] = {}
    for tuned in questions:
        adjustments = list(_adjustments(tuned, record))
        if adjustments:
            table = oracles.setdefault(tuned.decision.oracle, {"adjust": []})
            table["adjust"] += adjustments
    return {"platform": asked.machine.device, "oracles": oracles} if oracles else None


def _adjustments(tuned: TunedQuestion, record: Record) -> Iterator[dict[str, Any]]:
    """What puts the backends of one layer into the measured order, range by range."""
    by_tokens = record.of(str(tuned.layer))
    layer = _conditions(tuned.decision.facts)
    for tokens, calls in _ranges(tuned.decision.order, by_tokens):
        when = {"num_tokens": calls} if calls else {}
        first = by_tokens[tokens[0]]
        order = [name for name in tuned.decision.order if name in first]
        wanted = measured_order(order, first)
        for name, other in moves(order, wanted):
            yield {
                "when": {**when, **layer},
                "move": name,
                "before": other,
                "because": f"Measured faster than {other}",
                "evidence": [
                    {
                        "device": record.facts["device"],
                        "date": record.facts["date"],
                        "versions": ", ".join(
                            f"{fact} {value}"
                            for fact, value in record.facts.items()
                            if fact not in ("device", "date")
                        ),
                        "figure": _figure(name, other, {n: by_tokens[n] for n in tokens}),
                    }
                ],
            }


def _conditions(facts: Mapping[str, FactValue]) -> dict[str, Any]:
    """The layer and the device that were measured, as conditions."""
    found: dict[str, Any] = {}
    device = next((name for name in _DEVICE_FACTS if facts.get(name) is not None), None)
    for name in (*([device] if device else []), *_LAYER_FACTS):
        found[name] = _plain(facts[name])
    return found


def _plain(value: FactValue) -> Any:
    """A condition that only this value meets."""
    from moe_rules.vocabulary.fact_values import plain
    from moe_rules.vocabulary.quant_keys import QuantKey, Scale

    def scale(of: Scale | None) -> Any:
        if of is None:
            return "none"
        rows, columns = of.group_shape
        return {"dtype": of.dtype, "static": of.static, "rows": rows, "columns": columns}

    if value is None:
        return "none"
    if isinstance(value, QuantKey) and value.name is None:
        parts = {"scale": scale(value.scale), "scale2": scale(value.scale2)}
        return {"dtype": value.dtype, **parts, "symmetric": value.symmetric}
    return plain(value)


def _figure(name: str, other: str, by_tokens: Mapping[int, Mapping[str, Measured]]) -> str:
    """How much faster a backend was than another one, at every number of tokens of a range."""
    measured = [
        f"{m[other].us / m[name].us:.2f}x with {tokens} tokens ({m[name].us:.4g} us)"
        for tokens, m in by_tokens.items()
    ]
    return f"speed relative to {other}: {', '.join(measured)}"


def measured_order(order: Sequence[str], measured: Mapping[str, Measured]) -> list[str]:
    """``order`` with every backend ahead of those that it is clearly faster than."""
    found: list[str] = []
    for name in order:
        place = len(found)
        while place and measured[name].us < NOISE * measured[found[place - 1]].us:
            place -= 1
        found.insert(place, name)
    return found


def moves(order: Sequence[str], wanted: Sequence[str]) -> list[tuple[str, str]]:
    """(backend, the one that it is moved before), which make ``wanted`` of ``order``.

    Carried out one after the other; each moves a backend only if it is not ahead already.
    """
    now, found = list(order), []
    for name, other in reversed(list(pairwise(wanted))):
        if now.index(name) > now.index(other):
            now.remove(name)
            now.insert(now.index(other), name)
            found.append((name, other))
    return found


def _ranges(
    order: Sequence[str], by_tokens: Mapping[int, Mapping[str, Measured]]
) -> Iterator[tuple[list[int], str]]:
    """Measured numbers of tokens with one order of backends, and the calls that it is for.

    Two ranges meet in the geometric middle between what was measured; the first and the last one
    have no other end.
    """
    groups: list[list[int]] = []
    orders: list[list[str]] = []
    for tokens, measured in by_tokens.items():
        wanted = measured_order([name for name in order if name in measured], measured)
        if orders and wanted == orders[-1]:
            groups[-1].append(tokens)
        else:
            groups.append([tokens])
            orders.append(wanted)
    starts = [math.isqrt(a[-1] * b[0]) + 1 for a, b in pairwise(groups)]
    for i, group in enumerate(groups):
        least = [f">={starts[i - 1]}"] if i > 0 else []
        most = [f"<{starts[i]}"] if i < len(starts) else []
        yield group, " ".join(least + most)
