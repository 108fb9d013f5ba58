"""From a checkpoint's quantization to what each layer asks: oracle, keys, options.

All knowledge is in ``quantization.yaml``; this module finds the method, reads the checkpoint's
block in the method's format and takes the first scheme whose conditions hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from moe_rules.models.conditions import Context, holds
from moe_rules.models.errors import CheckpointRefusedError, reading
from moe_rules.models.formats import FORMATS
from moe_rules.models.loading import LoadRefusal, load_refusals
from moe_rules.models.model_edits import Edits
from moe_rules.models.place import Checkpoint, LayerResolver, Place, Values
from moe_rules.models.shard_checks import (
    COMPUTED_KEYS,
    LAYER_CHANGES,
    block_checks,
    refined_in_words,
    shape_checks,
)
from moe_rules.vocabulary.fact_values import did_you_mean
from moe_rules.vocabulary.layer import FusedMoEConfig
from moe_rules.vocabulary.quant_keys import NAMED_KEYS, QuantKey


@dataclass(frozen=True)
class Question:
    """What a layer asks of an oracle; None where it asks none.

    ``note`` says why it asks none, or what else to know. ``layer`` is the layer as the quantization
    method changed it, None for no change; ``loading`` what vLLM would refuse after the selection.
    """

    oracle: str | None
    weight_key: QuantKey | None = None
    activation_key: QuantKey | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    note: str | None = None
    layer: FusedMoEConfig | None = None
    loading: tuple[LoadRefusal, ...] = ()


UNQUANTIZED = Question("unquantized")
STATED = ("oracle", "weight_key", "activation_key")
"""Facts that only a user can say of a quantization method without a row."""


@dataclass(frozen=True)
class Quantization:
    """A checkpoint's quantization method here, and how it treats each layer."""

    name: str | None
    checkpoint: Checkpoint | None
    method: Mapping[str, Any]
    resolve: LayerResolver
    context: Context
    table: Mapping[str, Any]
    edits: Edits
    _asked: list[tuple[Values, FusedMoEConfig, Question]] = field(default_factory=list)

    def ask(self, place: Place, layer: FusedMoEConfig) -> Question:
        """What the layer at ``place`` asks. Raises CheckpointRefusedError."""
        with reading(f"the quantization block ({self.name})", "quant_method"):
            return self._ask(self.resolve(place), layer)

    def _ask(self, values: Values | None, layer: FusedMoEConfig) -> Question:
        own = self.edits.own_kernels(quantized=values is not None)
        if own is not None:
            return Question(None, note=own)
        if values is None:
            return UNQUANTIZED
        for known_values, known_layer, question in self._asked:
            if known_layer is layer and known_values == values:
                return question
        context = Context(
            values,
            **self.context.groups,
            layer=vars(layer),
            parallel=vars(layer.moe_parallel_config),
            checks={
                "gated": layer.is_act_and_mul,
                **shape_checks(layer, self.context.groups["platform"], _group_size(values)),
                **block_checks(layer, values.get("weight_block_size")),
            },
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
                return self._first(self.table["schemes"][scheme["then"]], context, layer)
            changed = _changed(scheme.get("layer"), context, layer)
            context = context.extended(layer=vars(changed))
            lists = self.table["loading"]
            checks = (one for name in scheme.get("loading", ()) for one in lists[name])
            loading = load_refusals(checks, context)
            if "no_oracle" in scheme:
                return Question(None, note=scheme["no_oracle"], loading=loading)
            weight_key = _key(scheme.get("weight"), context, changed)
            return Question(
                scheme["oracle"],
                weight_key,
                _key(scheme.get("activation"), context, changed),
                _options(scheme, context),
                refined_in_words(context["weight_block_size"], weight_key, changed),
                layer=None if changed is layer else changed,
                loading=loading,
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


def _changed(change: str | None, context: Context, layer: FusedMoEConfig) -> FusedMoEConfig:
    return layer if change is None else LAYER_CHANGES[change](context, layer)


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
    row: Mapping[str, Any],
    in_dtype: str,
) -> Quantization:
    """How the model's class treats the checkpoint's quantization on this machine.

    ``row`` is the architecture's: how it renames modules and changes the quantization. ``context``
    must hold ``platform`` (with ``capability``), ``deployment`` and ``config``. Raises
    CheckpointRefusedError.
    """
    name = method_of(block, table, context)
    in_block = Context(block or {}, **context.groups, checkpoint={"method": name})
    edits = Edits.of(row["quantization"], in_block)
    if name is None:
        return Quantization(None, None, {}, lambda place: None, context, table, edits)
    method = _method(name, table)
    refuse_method(name, method, context, in_dtype)
    checkpoint = edits.applied(Checkpoint(block or {}, method, row["rename"], in_block))
    with reading(f"the quantization block ({name})"):
        resolve = edits.around(FORMATS[method["format"]](checkpoint), checkpoint)
    for refusal in method["refuse"]:
        if holds(refusal.get("when", {}), in_block):
            raise CheckpointRefusedError(refusal["because"], refusal.get("stage", "engine_config"))
    edits.refuse()
    return Quantization(name, checkpoint, method, resolve, context, table, edits)


def _method(name: str, table: Mapping[str, Any]) -> Mapping[str, Any]:
    methods: Mapping[str, Any] = table["methods"]
    if name not in methods:
        raise _not_of_vllm(name, methods)
    row: Mapping[str, Any] = methods[name]
    return row


def _not_of_vllm(name: str, names: Iterable[str]) -> CheckpointRefusedError:
    return CheckpointRefusedError(
        f"vLLM has no quantization method {name!r}{did_you_mean(name, names)}; a plugin's is asked "
        f"about by stating {', '.join(STATED)}"
    )


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
        if requested in table["methods"]:
            raise CheckpointRefusedError(f"{requested} needs a checkpoint quantized so")
        raise _not_of_vllm(requested, [*table["online"], *table["methods"]])
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
