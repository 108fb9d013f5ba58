"""Online quantization by layer: what a user asks for with vLLM's ``quantization_config``.

Source: ``config/quantization.py`` and ``quantization/online/base.py``. The names that a user may
give, and which methods they stand for, are in ``quantization.yaml`` (``online``, ``online_keys``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from moe_rules.models.blocks import module_name
from moe_rules.models.errors import CheckpointRefusedError
from moe_rules.models.names import matches_pattern
from moe_rules.models.place import Place
from moe_rules.models.quantization import UNQUANTIZED, Quantization, Question
from moe_rules.models.suggest import unknown_name
from moe_rules.models.typed import Shape, either, listed, mapped, optional, read, text
from moe_rules.vocabulary.layer import FusedMoEConfig
from moe_rules.vocabulary.quant_keys import NAMED_KEYS, QuantKey
from moe_rules.vocabulary.record import Record

WHERE = "quantization_config"
BY_LAYER = "online"
"""The method by which a user leaves it to ``quantization_config`` what is quantized."""


SPEC = Shape(weight=optional(text), activation=optional(text))
"""How one kind of layer is quantized, by names of quantization keys."""
LAYER_KIND = optional(either("text, or weight and activation", (str, text), (Mapping, SPEC)))
REQUESTED = Shape(
    linear=LAYER_KIND,
    moe=LAYER_KIND,
    ignore=optional(listed(module_name)),
    targets=optional(mapped(text, module_name)),
)
"""What a user may give."""


class Online(Record):
    """Which MoE layers are quantized online, by names of methods.

    ``targets`` are patterns of module paths, each with a method; else ``everywhere`` holds for
    every layer. ``ignored`` are patterns of layers that are left as they are. ``activation`` is
    the key that a user wants for the activations of a quantized checkpoint's experts.
    """

    everywhere: str | None
    targets: Mapping[str, str] | None
    ignored: tuple[str, ...]
    activation: QuantKey | None = None

    def method(self, module: str) -> str | None:
        """The method of the layer with this module path. Raises CheckpointRefusedError."""
        ignored = any(_matches(module, pattern) for pattern in self.ignored)
        if self.targets is None:
            return None if ignored else self.everywhere
        found = [pattern for pattern in self.targets if _matches(module, pattern)]
        if ignored and found:
            raise _refused(f"{module} matches both ignore and targets ({found[0]})", "quant_method")
        if len(found) > 1:
            raise _refused(f"{module} matches several targets: {', '.join(found)}", "quant_method")
        return self.targets[found[0]] if found else None


def _matches(module: str, pattern: str) -> bool:
    """Equal, by shell wildcards or, after "re:", as a regular expression."""
    return matches_pattern(module, pattern) or (
        not pattern.startswith("re:") and fnmatchcase(module, pattern)
    )


def online_of(
    given: Mapping[str, Any] | None,
    method: str | None,
    table: Mapping[str, Any],
    *,
    quantized: bool,
) -> Online | None:
    """What ``quantization_config`` and the requested method say together; None for nothing.

    ``quantized``: the checkpoint is. Without a method an unquantized one stays so, whatever is
    given. Raises CheckpointRefusedError for what vLLM does not take.
    """
    if given is None:
        if method == BY_LAYER:
            raise _refused("the method online needs a quantization_config")
        return None
    read(REQUESTED, given, WHERE)
    for name in given:
        if name not in REQUESTED.fields:
            raise _refused(unknown_name("field of quantization_config", name, REQUESTED.fields))
    if method is None and not quantized:
        return None
    base = method if method in table["online_shorthands"] and not quantized else None
    if method == "fp8" and not quantized:
        base = "fp8_per_tensor"
    targets, moe = given.get("targets"), given.get("moe")
    if targets is not None and (base or moe is not None or given.get("linear") is not None):
        raise _refused("targets exclude linear and moe, also those that the method stands for")
    if targets is None and moe is None and given.get("linear") is None and base is None:
        raise _refused("quantization_config must give moe, linear or targets")
    for pattern, shorthand in (targets or {}).items():
        _known_shorthand(shorthand, table, f"targets: {pattern}")
    everywhere, activation = _spec(moe, table)
    ignored = tuple(given.get("ignore") or ())
    return Online(everywhere or base, targets, ignored, activation)


def _spec(moe: Any, table: Mapping[str, Any]) -> tuple[str | None, QuantKey | None]:
    """The method and the activation key of what is given for MoE layers."""
    if moe is None:
        return None, None
    if isinstance(moe, str):
        if moe in table["online_shorthands"]:
            return moe, None
        moe = {"weight": moe}
    weight, activation = (_key(moe.get(name), table) for name in ("weight", "activation"))
    if weight is None or weight.get("elsewhere"):
        return None, None if activation is None else NAMED_KEYS[activation["key"]]
    if "method" not in weight:
        raise _refused(f"MoE layers cannot be quantized online with weight {moe['weight']!r}")
    if activation is not None:
        raise _refused("the activations of online quantization cannot be chosen")
    return str(weight["method"]), None


def _key(name: str | None, table: Mapping[str, Any]) -> Mapping[str, Any] | None:
    keys: Mapping[str, Any] = table["online_keys"]
    if name is not None and name not in keys:
        raise _refused(unknown_name("quantization", name, [*keys, *table["online_shorthands"]]))
    return None if name is None else keys[name]


def _known_shorthand(name: str, table: Mapping[str, Any], where: str) -> None:
    if name not in table["online_shorthands"]:
        raise _refused(
            f"{where}: {unknown_name('online method', name, table['online_shorthands'])}"
        )


def _refused(why: str, stage: str = "engine_config") -> CheckpointRefusedError:
    return CheckpointRefusedError(why if why.startswith(WHERE) else f"{WHERE}: {why}", stage)


class OnlineQuantization(Record):
    """A checkpoint's quantization with online methods for some layers laid over it.

    ``refusal`` is why layers that the checkpoint has quantized are not quantized anew, if so.
    """

    base: Quantization
    online: Online
    method: Callable[[str], Quantization]
    refusal: str | None = None

    def ask(self, place: Place, layer: FusedMoEConfig) -> Question:
        """What the layer at ``place`` asks. Raises CheckpointRefusedError."""
        name = self.online.method(place.name)
        if name is not None:
            if self.refusal is not None and self.base.ask(place, layer) != UNQUANTIZED:
                raise _refused(self.refusal, "quant_method")
            return self.method(name).ask(place, layer)
        return self.base.ask(place, layer)
