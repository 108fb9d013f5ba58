"""From an architecture's row to the facts of its MoE layers, before quantization."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import NoneType
from typing import Any

from moe_rules.models.conditions import Context, any_of, holds
from moe_rules.models.deployment import Deployment
from moe_rules.models.errors import CheckpointRefusedError, UnknownModelError
from moe_rules.models.expert_substitution import retained_experts
from moe_rules.models.hf_config import HfConfig, file_of
from moe_rules.models.routing import routing_method
from moe_rules.models.sources import value_of
from moe_rules.models.suggest import unknown_name
from moe_rules.models.typed import (
    BY_FACT_TYPE,
    Kind,
    entries,
    flag,
    indices,
    integer,
    number,
    positive,
    shown,
    text,
    whole,
)
from moe_rules.vocabulary.facts import ACTIVATIONS, FACTS
from moe_rules.vocabulary.layer import REQUIRED_FACTS, FusedMoEConfig, FusedMoEParallelConfig

VOCABULARY_PADDING = 64
"""What vLLM pads the rows of a model's embedding to, before ranks share them."""
MAX_LAYERS = 1_000
"""Several times as many as the deepest models have."""

KINDS: Mapping[str, Kind] = {
    **{name: BY_FACT_TYPE[fact.type] for name, fact in FACTS.items() if fact.group == "layer"},
    **dict.fromkeys(REQUIRED_FACTS, positive),
    "defers_all_reduce": flag,
    "sequence_parallel": flag,
    "transforms_experts": flag,
    "minimum_intermediate_size_per_partition": integer,
}
"""What the sources of a row may give: the type of the fact, where it is one."""
LAYER_KINDS: Mapping[str, Kind] = {
    **dict.fromkeys(("first", "last", "every", "offset"), whole),
    "count": integer,
    **dict.fromkeys(("listed", "dense"), indices),
    "types": entries,
}
ROUTING_KINDS: Mapping[str, Kind] = {
    **dict.fromkeys(("scoring", "custom"), text),
    **dict.fromkeys(("renormalize", "correction_bias", "zero_experts"), flag),
    **dict.fromkeys(("groups", "taken_groups"), integer),
}


def said(row: Mapping[str, Any], name: str, context: Context) -> Any:
    """What the configuration says of a row's source. Raises ConfigValueError."""
    return value_of(row[name], context, KINDS[name])


def moe_layers(row: Mapping[str, Any], context: Context) -> list[int]:
    """The indices of the decoder layers that are MoE layers."""
    rule = row["layers"]

    given = {name: value_of(rule[name], context, kind) for name, kind in LAYER_KINDS.items()}
    for name in ("first", "every", "offset"):
        if rule[name] is not None and given[name] is None:
            raise CheckpointRefusedError(
                f"{file_of(context)} has no number for {_field_of(rule[name])}, by which vLLM "
                "tells MoE layers from dense ones",
                "model",
            )
    every, last, count, types = (given[name] for name in ("every", "last", "count", "types"))
    first, offset, without = max(given["first"] or 0, 0), given["offset"] or 0, rule["without"]
    listed, dense = given["listed"], given["dense"]
    if count is None:
        count = len(types or ())
    if count > MAX_LAYERS:
        raise CheckpointRefusedError(
            f"{file_of(context)} says {count} decoder layers; expected at most {MAX_LAYERS}",
            "model",
        )
    found = [
        index
        for index in range(first, count)
        if (last is None or index <= last)
        and (listed is None or index in listed)
        and (dense is None or index not in dense)
        and (types is None or (index < len(types) and types[index] in rule["type"]))
        and not any_of(_experts(row, at_layer(row, context, index)), without)
    ]
    if found and every == 0:
        raise CheckpointRefusedError(
            f"{file_of(context)} gives 0 for {_field_of(rule['every'])}, by which vLLM divides the "
            "indices of layers",
            "model",
        )
    return [index for index in found if every is None or (index + offset) % every == 0]


def _field_of(source: Any) -> Any:
    """The field that a source is, where it is one with a default."""
    return source["field"] if isinstance(source, Mapping) and "field" in source else source


def _experts(row: Mapping[str, Any], context: Context) -> int | None:
    count: int | None = value_of(row["num_experts"], context, integer)
    return count


def prediction_layers(row: Mapping[str, Any], context: Context) -> range:
    """The indices of the multi-token prediction layers, which count on from the decoder layers."""
    if row["mtp"] is None:
        return range(0)
    first, count = (
        value_of(source, context, integer) or 0
        for source in (row["layers"]["count"], row["mtp"]["count"])
    )
    if count > MAX_LAYERS:
        raise CheckpointRefusedError(f"{count} prediction layers; expected at most {MAX_LAYERS}")
    return range(first, first + count)


def at_layer(row: Mapping[str, Any], context: Context, index: int) -> Context:
    """The context of one decoder layer, with the fields that are its own."""
    here = context.extended(layer={"index": index})
    own = fields_of_layer(row, context, index)
    return here if own is None else here.over(own, f"{row['layer_fields']}.{index}")


def fields_of_layer(
    row: Mapping[str, Any], context: Context, index: int
) -> Mapping[str, Any] | None:
    """The configuration fields that a heterogeneous model gives for this layer alone."""
    own = context[f"{row['layer_fields']}.{index}"] if row["layer_fields"] else None
    return own if isinstance(own, Mapping) else None


def layer_facts(
    row: Mapping[str, Any],
    table: Mapping[str, Any],
    context: Context,
    deployment: Deployment,
    in_dtype: str,
    substituted: frozenset[int] = frozenset(),
) -> FusedMoEConfig:
    """The facts of the layer whose index the context holds. Raises CheckpointRefusedError.

    ``substituted`` are the layer's experts that constants replace.
    """

    def given(name: str) -> Any:
        return said(row, name, context)

    _require_sizes(row, given, file_of(context))
    activation = _activation(given("activation"), table, gated=None not in row["projections"])
    parallel = parallel_of(deployment, sequence_parallel=bool(given("sequence_parallel")))
    size = _padded(given("intermediate_size"), given, deployment)
    routing = {
        name: value_of(source, context, ROUTING_KINDS[name])
        for name, source in row["routing"].items()
    }
    for name in ("groups", "taken_groups"):
        source = row["routing"][name]
        if routing[name] is None and not isinstance(source, list | NoneType):
            raise CheckpointRefusedError(
                f"vLLM's router of this model takes experts by groups, and {file_of(context)} "
                f"gives no number of them ({_field_of(source)})",
                "model",
            )
    clamps = {name: given(name) for name in _FLOATS}
    retained = retained_experts(given("num_experts"), substituted, context["layer.index"])
    facts = FusedMoEConfig(
        num_experts=_physical_experts(row, retained, parallel.ep_size, deployment),
        experts_per_token=given("experts_per_token"),
        hidden_dim=given("hidden_dim"),
        intermediate_size=size,
        activation=activation,
        routing_method=_routing_method(routing, given("has_hash_routing"), context),
        in_dtype=in_dtype,
        moe_parallel_config=replace(parallel, tp_size=_dividing(size, parallel.tp_size)),
        router_logits_dtype=given("router_logits_dtype"),
        moe_backend=deployment.moe_backend,
        has_bias=bool(given("has_bias")),
        is_lora_enabled=deployment.enable_lora,
        has_hash_routing=bool(given("has_hash_routing")),
        require_decomposed_backend=bool(substituted),
        skip_final_all_reduce=_skips_all_reduce(given, parallel, routing),
        **clamps,
    )
    refuse_layer(row, table, facts, deployment, context)
    return facts


def _require_sizes(row: Mapping[str, Any], given: Any, file: str) -> None:
    """Raise where a file lacks a required fact, or has no positive integer for it."""
    missing = tuple(name for name in REQUIRED_FACTS if given(name) is None)
    if missing:
        fields = ", ".join(f"{name} ({row[name]})" for name in missing)
        raise UnknownModelError(f"{file} does not give {fields}", missing)
    for name in REQUIRED_FACTS:
        value = given(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise CheckpointRefusedError(
                f"{name} must be a positive integer; {file} gives {value!r} ({row[name]})",
                "model",
            )


def _physical_experts(
    row: Mapping[str, Any], experts: int, ranks: int, deployment: Deployment
) -> int:
    """The experts that the layer holds: the model's, redundant ones and what pads them to ranks."""
    if row["balances_experts"]:
        experts += deployment.num_redundant_experts
    return -(-experts // ranks) * ranks if row["pads_experts_to_ranks"] else experts


_FLOATS = (
    "swiglu_limit",
    "swiglu_alpha",
    "swiglu_beta",
    "activation_situ_beta",
    "activation_situ_linear_beta",
)


def _activation(name: str | None, table: Mapping[str, Any], *, gated: bool) -> str:
    name = table["activation_aliases"].get(name, str(name))
    if not gated:
        name = f"{name}_no_mul"
    if name not in ACTIVATIONS:
        raise CheckpointRefusedError(unknown_name("MoE activation", name, ACTIVATIONS), "model")
    return name


def parallel_of(deployment: Deployment, *, sequence_parallel: bool) -> FusedMoEParallelConfig:
    """The deployment's sizes as the MoE layer works with them."""
    return FusedMoEParallelConfig.make(
        tp_size=deployment.tensor_parallel_size,
        pcp_size=deployment.prefill_context_parallel_size,
        dp_size=deployment.data_parallel_size,
        sp_size=deployment.tensor_parallel_size if sequence_parallel else 1,
        enable_expert_parallel=deployment.enable_expert_parallel,
        all2all_backend=deployment.all2all_backend,
        enable_eplb=deployment.enable_eplb,
    )


def _padded(size: int, given: Any, deployment: Deployment) -> int:
    """The intermediate size, padded where a model keeps each rank's share above a minimum."""
    smallest, ranks = (
        given("minimum_intermediate_size_per_partition"),
        deployment.tensor_parallel_size,
    )
    if smallest is None or ranks <= 1 or size // ranks >= smallest:
        return size
    return int(smallest) * ranks


def _dividing(size: int, tp_size: int) -> int:
    if size % tp_size:
        raise CheckpointRefusedError(
            f"intermediate_size {size} is not divisible by the {tp_size} ranks that share it",
            "model",
        )
    return tp_size


def _routing_method(routing: Mapping[str, Any], hashes: Any, context: Context) -> str:
    if routing["zero_experts"]:
        return "Unspecified"
    if routing["custom"] is not None and context["platform.device"] != "cpu":
        return str(routing["custom"])
    return routing_method(
        str(routing["scoring"]),
        renormalize=bool(routing["renormalize"]),
        correction_bias=bool(routing["correction_bias"] or hashes),
        groups=routing["groups"],
    )


def _skips_all_reduce(
    given: Any, parallel: FusedMoEParallelConfig, routing: Mapping[str, Any]
) -> bool:
    return (
        bool(given("defers_all_reduce"))
        and not parallel.use_all2all_kernels
        and parallel.sp_size == 1
        and not routing["zero_experts"]
    )


def refuse_layer(
    row: Mapping[str, Any],
    table: Mapping[str, Any],
    facts: FusedMoEConfig,
    deployment: Deployment,
    context: Context,
) -> None:
    """Raise CheckpointRefusedError where vLLM would refuse to build the layer."""
    ranks = deployment.tensor_parallel_size
    if row["tensor_parallel_at_most_experts"] and ranks > facts.num_experts:
        raise CheckpointRefusedError(
            f"tensor parallel size {ranks} is greater than the number of experts "
            f"{facts.num_experts}",
            "model",
        )
    device = context["platform.device"]
    if not facts.is_act_and_mul and device not in ("cuda", "rocm", "xpu"):
        raise CheckpointRefusedError(
            f"activation {facts.activation} has no gate; vLLM runs such layers on CUDA, ROCm and "
            f"XPU, not on {device}",
            "model",
        )
    of_layer = {**vars(facts), "is_act_and_mul": facts.is_act_and_mul, **context.groups["layer"]}
    context = context.extended(layer=of_layer)
    for refusal in (*table["refuse_layers"], *row["refuse"]):
        allowed = "value" in refusal and any_of(
            value_of(refusal["value"], context, number), refusal["unless"]
        )
        if not allowed and holds(refusal.get("when", {}), context):
            raise CheckpointRefusedError(refusal["because"], refusal.get("stage", "model"))


def refused_values(row: Mapping[str, Any], context: Context) -> list[Any]:
    """The numbers that refusals look at, which may differ from layer to layer."""
    sources = (refusal["value"] for refusal in row["refuse"] if "value" in refusal)
    return [value_of(source, context, number) for source in sources]


def refuse_layer_lists(table: Mapping[str, Any], text: HfConfig) -> None:
    """Raise CheckpointRefusedError for a list that the class refuses (``layer_lists``)."""
    count = text.get("num_hidden_layers")
    for rule in table["layer_lists"]:
        entries = text.get(rule["field"])
        if text.model_type not in rule["model_types"] or not isinstance(entries, list):
            continue
        if isinstance(count, int) and len(entries) != count:
            raise CheckpointRefusedError(
                f"{text.where(rule['field'])} has {len(entries)} entries for {count} decoder layers"
            )
        types = rule.get("types")
        others = [one for one in entries if types and one not in types]
        if others:
            raise CheckpointRefusedError(
                f"{text.where(rule['field'])} holds {shown(others[0])}; "
                f"expected {' or '.join(types)}"
            )


def refuse_deployment(table: Mapping[str, Any], context: Context, deployment: Deployment) -> None:
    """Raise CheckpointRefusedError where vLLM's engine would refuse this model so spread."""
    for refusal in table["refuse"]:
        if holds(refusal["when"], context):
            raise CheckpointRefusedError(refusal["because"])
    heads = value_of(table["attention_heads"], context, integer) or 0
    ranks = deployment.tensor_parallel_size
    if heads % ranks:
        raise CheckpointRefusedError(
            f"{heads} attention heads are not divisible by tensor parallel size {ranks}"
        )
    tokens = value_of(table["vocabulary"], context, integer) or 0
    if -(-tokens // VOCABULARY_PADDING) * VOCABULARY_PADDING % ranks:
        raise CheckpointRefusedError(
            f"a vocabulary of {tokens}, padded to a multiple of {VOCABULARY_PADDING}, is not "
            f"divisible by tensor parallel size {ranks}",
            "model",
        )
    if deployment.enable_expert_parallel:
        counts = [value_of(source, context) for source in table["expert_counts"]]
        if not next((count for count in counts if count), 0):
            raise CheckpointRefusedError(
                "expert parallelism: vLLM finds no number of experts in the configuration "
                f"(it looks for {', '.join(map(_place, table['expert_counts']))})"
            )


def _place(source: Any) -> str:
    return source if isinstance(source, str) else f"{source['field']}.*.{source['largest']}"
