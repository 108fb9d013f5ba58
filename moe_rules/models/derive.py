"""From a model's config.json, a machine and a deployment to the MoE layers the rules select for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

from moe_rules.models.architectures import (
    at_layer,
    fields_of_layer,
    layer_facts,
    moe_layers,
    prediction_layers,
    refuse_deployment,
    refuse_layer_lists,
    refused_values,
    said,
)
from moe_rules.models.conditions import Context
from moe_rules.models.deployment import Deployment
from moe_rules.models.errors import CheckpointRefusedError, UnknownModelError, reading
from moe_rules.models.expert_substitution import (
    Substituted,
    refuse_substituted,
    substituted_experts,
)
from moe_rules.models.hf_config import (
    USUAL_NAMES,
    FileNames,
    HfConfig,
    activation_dtype,
    brings_its_class,
    quantization_block,
    text_config,
)
from moe_rules.models.hints import names_no_experts, names_no_method
from moe_rules.models.loading import LoadRefusal, load_refusals
from moe_rules.models.online import OnlineQuantization, online_of
from moe_rules.models.overrides import Overrides
from moe_rules.models.place import Place
from moe_rules.models.quantization import UNQUANTIZED, Quantization, Question, quantization_of
from moe_rules.models.rows import (
    architectures_of,
    find,
    refuse_activation,
    refuse_missing_fields,
    refuse_without_class,
    row_for,
    type_of_architecture,
)
from moe_rules.models.tables import Tables, load_tables
from moe_rules.vocabulary.layer import REQUIRED_FACTS, FusedMoEConfig
from moe_rules.vocabulary.quant_keys import QuantKey

PREDICTION = (
    "multi-token prediction, quantized otherwise than the model's layers: built with speculative "
    "decoding only"
)


@dataclass(frozen=True)
class ModelLayer:
    """One kind of MoE layer of a model, with the indices of the decoder layers that are so.

    ``oracle`` is the selector asked for the layer; None where the quantization method asks none,
    with the reason in ``notes``. ``options`` are the oracle's further arguments
    (``allow_vllm_cutlass``, ``may_have_zp``, ``may_have_bias``, ``allow_tile_padding``,
    ``quant_config``); ``runtime`` holds facts of the model that selection may ask about.
    ``module`` is the path of the first layer's routed experts in vLLM's model. ``loading`` says
    why vLLM would not load the layer, although it selects a backend for it.
    """

    oracle: str | None
    moe: FusedMoEConfig
    weight_key: QuantKey | None = None
    activation_key: QuantKey | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    runtime: Mapping[str, Any] = field(default_factory=dict)
    layers: tuple[int, ...] = ()
    module: str = ""
    notes: tuple[str, ...] = ()
    loading: tuple[LoadRefusal, ...] = ()


def derive_layers(
    config: Mapping[str, Any],
    machine_facts: Mapping[str, Any],
    deployment: Deployment | None = None,
    *,
    hf_quant_config: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    tables: Tables | None = None,
    names: FileNames = USUAL_NAMES,
) -> list[ModelLayer]:
    """The model's MoE layers on this machine, one :class:`ModelLayer` for each distinct kind.

    ``config`` is config.json, ``hf_quant_config`` the file of that name if the checkpoint has one.
    ``machine_facts`` holds platform and software facts by name. ``overrides`` replace derived
    facts: fields of ``FusedMoEConfig``, ``parallel.*`` ones, ``oracle``, ``weight_key``,
    ``activation_key`` and option names; with enough of them a model that the tables do not know is
    derived as well. ``names`` are what errors call the files. The list is empty for a model without
    MoE layers.

    Raises CheckpointRefusedError where vLLM would not run the checkpoint, UnknownModelError for an
    architecture that is not in the tables, ValueError for an override that is no fact.
    """
    if not isinstance(config, Mapping):
        given = type(config).__name__
        raise CheckpointRefusedError(f"{names.config} must be a mapping, not {given}")
    deployment = deployment or Deployment()
    tables = tables or load_tables()
    stated = Overrides.read(overrides or {})
    with reading(names.config):
        return _derive(config, machine_facts, deployment, hf_quant_config, stated, tables, names)


def _derive(
    config: Mapping[str, Any],
    machine_facts: Mapping[str, Any],
    deployment: Deployment,
    hf_quant_config: Mapping[str, Any] | None,
    stated: Overrides,
    tables: Tables,
    names: FileNames,
) -> list[ModelLayer]:
    classes = tables.architectures["config_classes"]
    outer = HfConfig(config, classes, type_of_architecture(config, tables), names.config)
    text = text_config(outer, classes)
    found = _row(outer, text, tables, machine_facts, stated)
    if found is None:
        return []
    row = stated.in_row(found)
    context = Context(
        text,
        config=outer,
        text=text,
        platform=_Platform(machine_facts),
        deployment=deployment.facts(),
        model={
            "architecture": find(architectures_of(outer, text, tables), tables),
            "experts_class": row["experts_class"],
        },
    )
    if not brings_its_class(config, classes):
        refuse_without_class(context)
        text.refuse_other_types()
    refuse_layer_lists(tables.architectures, text)
    refuse_deployment(tables.architectures, context, deployment)
    refuse_missing_fields(row, context)
    refuse_activation(row, context)
    in_dtype = activation_dtype(config, text, machine_facts, deployment.dtype)
    runtime: dict[str, Any] = {"model_type": text.model_type}
    quantization: Quantization | OnlineQuantization | None = None
    if stated.oracle is None:
        place, block = quantization_block(config, hf_quant_config, names) or ("", None)
        context = context.extended(block={"place": place})
        online = online_of(
            deployment.quantization_config,
            deployment.quantization,
            tables.quantization,
            quantized=block is not None,
        )
        asked = partial(_asked_for, tables, context, deployment, row, in_dtype)
        if online is None or block is not None:
            quantization = quantization_of(block, tables.quantization, context, row, in_dtype)
        else:
            quantization = asked(None)
        if online is not None:
            refusal = tables.quantization["refuse_requantized"]
            quantization = OnlineQuantization(quantization, online, cache(asked), refusal)
            runtime["moe_activation_override"] = online.activation
    substitutes = tables.architectures["substitutes_experts"]
    substituted = substituted_experts(outer, text) if substitutes else {}

    def kinds(row: Mapping[str, Any], indices: Sequence[int]) -> list[ModelLayer]:
        """The layers with these indices, by kind."""
        return _kinds(
            row,
            indices,
            tables,
            context,
            deployment,
            in_dtype,
            quantization,
            stated,
            runtime,
            substituted,
        )

    layers = kinds(row, moe_layers(row, context))
    if row["needs_moe_layers"] and not layers:
        raise CheckpointRefusedError(
            "the model has no MoE layers, which vLLM's class for it cannot do without", "model"
        )
    predicting = prediction_layers(row, context) if layers else ()
    drafts = kinds({**row, "experts": row["mtp"]["experts"]}, predicting) if predicting else []
    return [*layers, *(_as_draft(one) for one in drafts if not _like_any(one, layers))]


class _Platform:
    """The facts of a machine, with ``capability``, which is found out when a table asks for it."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self._facts = facts

    def get(self, name: str, absent: Any = None) -> Any:
        """The fact, or ``absent`` where the machine does not say it."""
        return capability_of(self._facts) if name == "capability" else self._facts.get(name, absent)


def _like_any(layer: ModelLayer, others: list[ModelLayer]) -> bool:
    """Whether a layer is quantized as one of the others is."""
    return any(
        (one.oracle, one.weight_key, one.activation_key, one.options)
        == (layer.oracle, layer.weight_key, layer.activation_key, layer.options)
        for one in others
    )


def _as_draft(layer: ModelLayer) -> ModelLayer:
    return replace(layer, notes=(PREDICTION, *layer.notes))


def _asked_for(
    tables: Tables,
    context: Context,
    deployment: Deployment,
    row: Mapping[str, Any],
    in_dtype: str,
    name: str | None,
) -> Quantization:
    """An unquantized checkpoint with a method that quantizes while it is loaded, by its name."""
    asked = context.extended(deployment={**deployment.facts(), "quantization": name})
    return quantization_of(None, tables.quantization, asked, row, in_dtype)


def capability_of(machine_facts: Mapping[str, Any]) -> int:
    """The device's capability as vLLM's quantization methods compare it (90 for 9.0), -1 for none.

    A ROCm device has the version in its gfx name: 94 for gfx942, 110 for gfx1100.
    """
    version = machine_facts.get("compute_capability")
    if version is not None:
        return int(version[0]) * 10 + int(version[1])
    gfx = machine_facts.get("gfx")
    if not gfx:
        return -1
    digits = str(gfx).removeprefix("gfx")
    return int(digits[:-2]) * 10 + int(digits[-2], 16)


def _row(
    outer: HfConfig,
    text: HfConfig,
    tables: Tables,
    machine_facts: Mapping[str, Any],
    stated: Overrides,
) -> dict[str, Any] | None:
    """The architecture's row; for an unknown one whose sizes are all stated, an ordinary row."""
    try:
        return row_for(outer, text, tables, machine_facts.get("device"))
    except UnknownModelError:
        if not set(REQUIRED_FACTS) <= set(stated.layer):
            raise
        return dict(tables.architectures["ordinary"])


def _kinds(
    row: Mapping[str, Any],
    indices: Sequence[int],
    tables: Tables,
    context: Context,
    deployment: Deployment,
    in_dtype: str,
    quantization: Quantization | OnlineQuantization | None,
    stated: Overrides,
    runtime: Mapping[str, Any],
    substituted: Substituted,
) -> list[ModelLayer]:
    """MoE layers grouped by equal facts, in the order of their first layer."""
    facts: dict[tuple[Any, ...], FusedMoEConfig] = {}
    groups: list[tuple[FusedMoEConfig, Question, list[int]]] = []
    paths: dict[int, str] = {}
    loading: dict[tuple[Any, ...], tuple[Question, Question]] = {}
    checks = (*tables.architectures["loading"], *row["loading"])
    by_index = "layer.index" in repr(checks)
    for number, index in enumerate(indices):
        path = row["experts"].format(layer=index, index=number)
        place = Place.of(row, path)
        paths[index] = place.name
        here = at_layer(row, context, index)
        replaced = substituted.get(index, frozenset())
        own = repr(fields_of_layer(row, context, index))
        varying = (own, replaced, *(said(row, name, here) for name in row["varying"]))
        varying += tuple(refused_values(row, here))
        if varying not in facts:
            derived = layer_facts(row, tables.architectures, here, deployment, in_dtype, replaced)
            facts[varying] = stated.in_layer(derived)
        moe = facts[varying]
        question = _question(row, quantization, place, moe, stated)
        if replaced:
            transformed = bool(said(row, "transforms_experts", here))
            refuse_substituted(moe, question, place.experts_class, transformed=transformed)
        moe = question.layer or moe
        alike_to = (id(moe), id(question), own, index if by_index else None)
        if alike_to not in loading:
            # With what is asked itself, whose identity stands in the key.
            loading[alike_to] = question, _with_loading(question, row, checks, here, moe)
        _, question = loading[alike_to]
        for known_moe, known_question, alike in groups:
            if known_question == question and known_moe == moe:
                alike.append(index)
                break
        else:
            groups.append((moe, question, [index]))
    hint = _hint(quantization, row, [question for _, question, _ in groups], paths)
    return [
        ModelLayer(
            question.oracle,
            moe,
            question.weight_key,
            question.activation_key,
            question.options,
            runtime,
            tuple(alike),
            paths[alike[0]],
            tuple(note for note in (question.note, hint) if note is not None),
            question.loading,
        )
        for moe, question, alike in groups
    ]


def _hint(
    quantization: Quantization | OnlineQuantization | None,
    row: Mapping[str, Any],
    questions: list[Question],
    paths: Mapping[int, str],
) -> str | None:
    """What to say where a quantized checkpoint leaves all experts unquantized."""
    if isinstance(quantization, OnlineQuantization):
        quantization = quantization.base
    if quantization is None:
        return None
    if any(replace(question, loading=()) != UNQUANTIZED for question in questions):
        return None
    if quantization.checkpoint is None:
        return names_no_method(quantization.context["block.place"])
    places = [Place.of(row, path) for path in paths.values()]
    return names_no_experts(quantization.checkpoint, places)


def _with_loading(
    question: Question,
    row: Mapping[str, Any],
    checks: Sequence[Mapping[str, Any]],
    here: Context,
    moe: FusedMoEConfig,
) -> Question:
    """What is asked, with what vLLM's layer and the model's class check after the selection."""
    context = here.extended(
        layer={**vars(moe), **here.groups["layer"]},
        parallel=vars(moe.moe_parallel_config),
        row={"balances_experts": row["balances_experts"]},
        question={"oracle": question.oracle},
    )
    return replace(question, loading=(*question.loading, *load_refusals(checks, context)))


def _question(
    row: Mapping[str, Any],
    quantization: Quantization | OnlineQuantization | None,
    place: Place,
    moe: FusedMoEConfig,
    stated: Overrides,
) -> Question:
    if stated.oracle is not None:
        question = Question(stated.oracle)
    elif row["no_oracle"] is not None:
        return Question(None, note=row["no_oracle"])
    else:
        try:
            question = UNQUANTIZED if quantization is None else quantization.ask(place, moe)
        except CheckpointRefusedError as error:
            error.layer = moe
            raise
    return stated.in_question(question) if stated.keys or stated.options else question
