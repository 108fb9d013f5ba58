"""An overlay with the measured order of backends, range by range of tokens, and its evidence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moe_rules.engine.decision import Decision
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
_ACCEPTED = dict.fromkeys(
    ("clause-without-effect", "redundant-clause"), "All that is known of what was measured is said"
)


Times = Mapping[str, float]
"""Microseconds by backend."""


@dataclass(frozen=True)
class MeasuredLayer:
    """A layer with the times of its backends.

    ``decision``: without what was measured. ``by_tokens``: by number of tokens, ascending.
    ``facts``: "device", "date" and the versions of everything that times depend on.
    """

    decision: Decision
    by_tokens: Mapping[int, Times]
    facts: Mapping[str, str]


def write_overlay(path: Path, layers: Iterable[MeasuredLayer], command: str) -> bool:
    """Write a rule file with the measured order of backends.

    False, and no file, where that is the order of the rules. ``command``: what measured it.
    """
    import yaml

    rules = _overlay(layers)
    if rules is None:
        path.unlink(missing_ok=True)  # of an earlier run
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(rules, sort_keys=False, width=100)
    path.write_text(f"# The order of backends as it was measured by: {command}\n{text}")
    return True


def _overlay(layers: Iterable[MeasuredLayer]) -> dict[str, Any] | None:
    oracles: dict[str, dict[str, list[Any]]] = {}
    platform = None
    for layer in layers:
        adjustments = list(_adjustments(layer))
        if adjustments:
            platform = layer.decision.platform
            table = oracles.setdefault(layer.decision.oracle, {"adjust": []})
            table["adjust"] += adjustments
    if not oracles:
        return None
    return {"platform": platform, "accepted": _ACCEPTED, "oracles": oracles}


def _adjustments(measured: MeasuredLayer) -> Iterator[dict[str, Any]]:
    """What puts the backends of one layer into the measured order, range by range."""
    decision, by_tokens, facts = measured.decision, measured.by_tokens, measured.facts
    layer = _conditions(decision.facts)
    for tokens, calls in _ranges(decision.order, by_tokens):
        when = {"num_tokens": calls} if calls else {}
        first = by_tokens[tokens[0]]
        order = [name for name in decision.order if name in first]
        wanted = measured_order(order, first)
        for name, other in moves(order, wanted):
            yield {
                "when": {**when, **layer},
                "move": name,
                "before": other,
                "because": f"Measured faster than {other}",
                "evidence": [
                    {
                        "device": facts["device"],
                        "date": facts["date"],
                        "versions": ", ".join(
                            f"{fact} {value}"
                            for fact, value in facts.items()
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


def _figure(name: str, other: str, by_tokens: Mapping[int, Times]) -> str:
    """How much faster a backend was than another one, at every number of tokens of a range."""
    measured = [
        f"{us[other] / us[name]:.2f}x with {tokens} tokens ({_microseconds(us[name])})"
        for tokens, us in by_tokens.items()
    ]
    return f"speed relative to {other}: {', '.join(measured)}"


def measured_order(order: Sequence[str], us: Times) -> list[str]:
    """``order`` with every backend ahead of those that it is clearly faster than."""
    found: list[str] = []
    for name in order:
        place = len(found)
        while place and us[name] < NOISE * us[found[place - 1]]:
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
    order: Sequence[str], by_tokens: Mapping[int, Times]
) -> Iterator[tuple[list[int], str]]:
    """Measured numbers of tokens with one order of backends, and the calls that it is for.

    Two ranges meet in the geometric middle between what was measured; the first and the last one
    have no other end.
    """
    groups: list[list[int]] = []
    orders: list[list[str]] = []
    for tokens, us in by_tokens.items():
        wanted = measured_order([name for name in order if name in us], us)
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


def _microseconds(us: float) -> str:
    """``us`` to four figures, for people."""
    return f"{us:,.0f} us" if us >= 1000 else f"{us:.4g} us"
