"""From a checkpoint's quantization to what each layer asks: oracle, keys, options.

All knowledge is in ``quantization.yaml``; this module finds the method, reads the checkpoint's
block in the method's format and takes the first scheme whose conditions hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from moe_rules.models.conditions import Context, holds
from moe_rules.models.errors import CheckpointRefusedError, UnknownModelError, reading
from moe_rules.models.formats import FORMATS
from moe_rules.models.place import Checkpoint, LayerResolver, Place, Values
from moe_rules.models.shard_checks import COMPUTED_KEYS, shape_checks
from moe_rules.models.suggest import unknown_name
from moe_rules.vocabulary.layer import FusedMoEConfig
from moe_rules.vocabulary.quant_keys import NAMED_KEYS, QuantKey


@dataclass(frozen=True)
class Question:
    """What a layer asks of an oracle. ``oracle`` is None where no oracle is asked: ``reason``."""

    oracle: str | None
    weight_key: QuantKey | None = None
    activation_key: QuantKey | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None


UNQUANTIZED = Question("unquantized")
MISSING = ("oracle", "weight_key", "activation_key")
"""Facts that nothing says for a quantization method without a row."""


@dataclass(frozen=True)
class Quantization:
    """A checkpoint's quantization method here, and how it treats each layer."""

    name: str | None
    checkpoint: Checkpoint
    method: Mapping[str, Any]
    resolve: LayerResolver
    context: Context
    scheme_lists: Mapping[str, Any]
    _asked: list[tuple[Values, FusedMoEConfig, Question]] = field(default_factory=list)

    def ask(self, place: Place, layer: FusedMoEConfig) -> Question:
        """What the layer at ``place`` asks. Raises CheckpointRefusedError, UnknownModelError."""
        with reading(f"the quantization block ({self.name})", "quant_method"):
            return self._ask(self.resolve(place), layer)

    def _ask(self, values: Values | None, layer: FusedMoEConfig) -> Question:
        if values is None:
            return UNQUANTIZED
        for known_values, known_layer, question in self._asked:
            if known_layer is layer and known_values == values:
                return question
        context = Context(
            values,
            **self.context.groups,
            layer=vars(layer),
            checks=shape_checks(layer, self.context.groups["platform"], _group_size(values)),
        )
        question = self._first(self.method["schemes"], context, layer)
        self._asked.append((values, layer, question))
        return question

    def _first(self, schemes: Any, context: Context, layer: FusedMoEConfig) -> Question:
        for scheme in schemes:
            if not holds(scheme.get("when", {}), context):
                continue
            if "refuse" in scheme:
                raise CheckpointRefusedError(scheme["refuse"], "quant_method")
            if "then" in scheme:
                return self._first(self.scheme_lists[scheme["then"]], context, layer)
            if "no_oracle" in scheme:
                return Question(None, reason=scheme["no_oracle"])
            return Question(
                scheme["oracle"],
                _key(scheme.get("weight"), context, layer),
                _key(scheme.get("activation"), context, layer),
                _options(scheme, context),
            )
        raise CheckpointRefusedError(
            f"no MoE scheme of {self.name} fits this checkpoint's quantization: "
            f"{_shown(context.default)}",
            "quant_method",
        )


def _group_size(values: Values) -> Any:
    weights = values.get("weights")
    inner = weights.get("group_size", -1) if isinstance(weights, Mapping) else -1
    return values.get("group_size", inner)


def _key(key: Any, context: Context, layer: FusedMoEConfig) -> QuantKey | None:
    if key is None:
        return None
    if isinstance(key, str):
        return NAMED_KEYS[key]
    return COMPUTED_KEYS[key["computed"]](context, layer)


def _options(scheme: Mapping[str, Any], context: Context) -> dict[str, Any]:
    def said(value: Any) -> Any:
        return context[value] if isinstance(value, str) else value

    options = {name: said(value) for name, value in scheme.get("options", {}).items()}
    described = scheme.get("quant_config")
    if described:
        options["quant_config"] = {
            name: value if name == "kind" else said(value) for name, value in described.items()
        }
    return options


def _shown(values: Any) -> str:
    plain = {key: value for key, value in dict(values).items() if not isinstance(value, list)}
    return ", ".join(f"{key}={value}" for key, value in plain.items())[:300]


def quantization_of(
    block: Mapping[str, Any] | None,
    table: Mapping[str, Any],
    context: Context,
    renaming: Mapping[str, Any] | None,
    in_dtype: str,
) -> Quantization | None:
    """The quantization of a checkpoint on this machine, or None for none.

    ``context`` must hold ``platform`` (with ``capability``), ``deployment`` and ``config``.
    Raises CheckpointRefusedError and, for a method the table does not know, UnknownModelError.
    """
    name = method_of(block, table, context)
    if name is None:
        return None
    methods = table["methods"]
    if name in table["not_supported"]:
        raise CheckpointRefusedError(f"vLLM does not support {name} quantization")
    if name not in methods:
        raise UnknownModelError(
            f"{unknown_name('quantization method', name, methods)}; without its row these facts "
            f"are missing: {', '.join(MISSING)}",
            MISSING,
        )
    method = methods[name]
    in_block = Context(block or {}, **context.groups)
    refuse_method(name, method, context, in_dtype)
    checkpoint = Checkpoint(block or {}, method, renaming, in_block)
    with reading(f"the quantization block ({name})"):
        resolve = FORMATS[method["format"]](checkpoint)
    for refusal in method["refuse"]:
        if holds(refusal.get("when", {}), in_block):
            raise CheckpointRefusedError(refusal["because"], refusal.get("stage", "engine_config"))
    return Quantization(name, checkpoint, method, resolve, context, table["schemes"])


def method_of(
    block: Mapping[str, Any] | None, table: Mapping[str, Any], context: Context
) -> str | None:
    """The method that reads this checkpoint, by vLLM's name; None for an unquantized one."""
    requested = context["deployment.quantization"]
    if block is None:
        return _online(requested, table)
    in_block = Context(block, **context.groups)
    declared = block["quant_method"] or None
    for row in table["detect"]:
        if holds(row["when"], in_block):
            if row.get("refuse"):
                raise CheckpointRefusedError(row["refuse"])
            return str(row["method"])
    if requested and requested != declared:
        raise CheckpointRefusedError(
            f"the checkpoint's quantization method ({declared}) is not the requested one "
            f"({requested})"
        )
    return declared


def _online(requested: str | None, table: Mapping[str, Any]) -> str | None:
    """The method that quantizes an unquantized checkpoint while it is loaded."""
    if requested is None:
        return None
    if requested not in table["online"]:
        if requested in table["not_supported"]:
            raise CheckpointRefusedError(f"vLLM does not support {requested} quantization")
        if requested in table["methods"]:
            raise CheckpointRefusedError(f"{requested} needs a checkpoint quantized so")
        raise UnknownModelError(
            unknown_name("quantization method", requested, [*table["online"], *table["methods"]])
        )
    return str(table["online"][requested])


def refuse_method(name: str, method: Mapping[str, Any], context: Context, in_dtype: str) -> None:
    """Raise CheckpointRefusedError where vLLM does not take the method: platform, device, dtype."""
    device, capability = context["platform.device"], context["platform.capability"]
    if device in method["unavailable_on"]:
        raise CheckpointRefusedError(f"{name} quantization is not supported on {device}")
    if method["deprecated"]:
        raise CheckpointRefusedError(f"{name} quantization is deprecated in vLLM")
    least = method["minimum_capability"]
    if 0 <= capability < least:
        raise CheckpointRefusedError(
            f"{name} quantization needs compute capability {least / 10}, this device has "
            f"{capability / 10}"
        )
    if in_dtype not in method["dtypes"]:
        raise CheckpointRefusedError(
            f"{in_dtype} activations are not supported with {name} quantization; "
            f"expected {' or '.join(method['dtypes'])}"
        )
