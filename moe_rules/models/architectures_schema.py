"""The closed shape of ``rules/models/architectures.yaml``: what models take from config.json."""

from __future__ import annotations

import re
from string import Formatter
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from moe_rules.models.place import ROUTED_EXPERTS
from moe_rules.models.schema import (
    Closed,
    Conditions,
    FieldSource,
    LiteralText,
    LoadCheck,
    Refusal,
    Scalar,
    Skip,
    Source,
    TableFile,
    named,
)
from moe_rules.vocabulary.table_names import PlatformName


def _module_path(path: str) -> str:
    for _, field, *_ in Formatter().parse(path):
        if field not in (None, "layer", "index"):
            raise ValueError(f"a module path has {{layer}} and {{index}}, not {{{field}}}")
    return path


ModulePath = Annotated[str, AfterValidator(_module_path)]
"""The path of a module; {layer} and {index} stand for numbers of a layer."""


class TextConfig(Closed):
    """Where the language model's configuration lies inside a multimodal one.

    ``class`` is the ``model_type`` whose class reads it, where it names none itself, or ``always``.
    """

    field: str
    class_: str | None = Field(default=None, alias="class")
    always: bool = False


class ConfigClass(Closed):
    """What the configuration class of a ``model_type`` adds to config.json, and what it refuses.

    ``types``: fields of which the class takes values of one type only, no null among them, and
    10.0 for a float, not 10. Those that matter to MoE layers are there. ``of_vllm``: vLLM has the
    class, which then counts where a checkpoint brings one, too.
    """

    defaults: dict[str, Any] = {}
    aliases: dict[str, str] = {}
    types: dict[Literal["int", "float", "bool", "str"], list[str]] = {}
    of_vllm: bool = False
    text: TextConfig | None = None


class MoELayers(Closed):
    """Which decoder layers are MoE layers. Everything that is given must hold.

    ``without``: values of ``num_experts`` with which the model is dense. ``first``, ``last``:
    bounds of the index. ``every``: index + ``offset`` is a multiple of it.
    ``listed``: the indices (a list, or numbers in a text). ``dense``: indices that are not MoE.
    ``types``: a list or a text with one entry for each layer, which must be one of ``type``.
    ``count``: the number of decoder layers (null: as many as ``types`` has).
    """

    without: list[Scalar] = []
    first: Source = 0
    last: Source = None
    every: Source = 1
    offset: Source = 0
    listed: Source = None
    types: Source = None
    type_: list[Scalar] = Field(default=[], alias="type")
    dense: Source = None
    count: Source = "num_hidden_layers"


class Routing(Closed):
    """How tokens are given to experts, as far as it decides the routing method.

    ``custom`` names the routing method of a routing function of the model's own; it does not
    count on CPU, where one router serves all. ``groups`` and ``taken_groups`` are how many groups
    of experts there are, and how many a token's experts come from.
    """

    scoring: Source = LiteralText(literal="softmax")
    renormalize: Source = True
    correction_bias: Source = False
    groups: Source = None
    taken_groups: Source = None
    custom: Source = None
    zero_experts: bool = False


class Rename(Closed):
    """How the model renames the modules that a checkpoint's quantization block names.

    In this order: regular expressions, substrings, prefixes, suffixes. Empty rules are not
    the same as none: a model that has some, even empty ones, splits ModelOpt's ``path*`` in two.
    """

    regex: dict[str, str] = {}
    substring: dict[str, str] = {}
    prefix: dict[str, str] = {}
    suffix: dict[str, str] = {}

    @field_validator("regex")
    @classmethod
    def _can_replace(cls, rules: dict[str, str]) -> dict[str, str]:
        for pattern, replacement in rules.items():
            try:
                re.sub(pattern, replacement, "")
            except (re.error, IndexError) as error:
                raise ValueError(f"{pattern!r} cannot become {replacement!r}: {error}") from None
        return rules


class QuantizationEdit(Closed):
    """How a model class changes a checkpoint's quantization for its routed experts.

    ``when`` sees the block's fields and ``checkpoint.method``; every entry that holds applies, in
    this order. ``set`` replaces fields of the block, ``skip`` the names that it leaves unquantized;
    ``also_skip`` leaves out more of them. ``no_oracle``: the class runs quantized experts itself,
    ``no_oracle_unquantized``: experts that are left out, or of a checkpoint without quantization.
    """

    when: Conditions = {}
    set: dict[str, Source] = {}
    skip: Skip | None = None
    also_skip: Skip | None = None
    no_oracle: str | None = None
    no_oracle_unquantized: str | None = None
    refuse: str | None = None
    because: str | None = None


class PredictionLayers(Closed):
    """Layers of multi-token prediction: how many, and the module path of their experts.

    In ``experts``, {layer} counts on from the decoder layers, {index} from 0.
    """

    count: Source
    experts: ModulePath


class Architecture(Closed):
    """Where one architecture's MoE layer facts come from.

    ``like`` takes everything that is not given from another architecture. ``experts`` is the
    module path of the routed experts; ``projections`` are the checkpoint's names of gate, up and
    down projection (null: there is none). ``platforms`` holds what differs on a platform.
    ``tensor_parallel_at_most_experts``: more ranks than experts are refused. ``balances_experts``:
    the class hands expert load balancing (EPLB) and redundant experts on to its layers.
    ``needs_moe_layers``: vLLM's class refuses a configuration without any.
    ``pads_experts_to_ranks``: it adds experts until every rank has as many.
    ``quantization``: how the class changes the checkpoint's quantization. ``language_model`` is
    where a vision model holds a language model of any architecture, the one its text configuration
    names; the rest of the row is then that architecture's. ``reads`` are fields that the model
    class reads without a default, so that a configuration without them is refused. ``activations``:
    of what ``hidden_act`` may say, all that the class takes; empty for whatever it says.
    ``layer_fields`` names a list with one mapping for each decoder layer, whose fields count for
    that layer before the configuration's own. ``mtp``: layers that a draft model makes of the same
    checkpoint. ``experts_class``: vLLM's class of the routed experts, by which targets of a
    quantization may name them. ``transforms_experts``: the layers transform what goes into their
    experts or comes out of them. Neither goes with experts that constants replace.
    ``no_oracle``: why the model class asks no oracle.
    """

    like: str | None = None
    language_model: str | None = None
    experts: ModulePath = "model.layers.{layer}.mlp.experts"
    projections: list[str | None] = ["gate_proj", "up_proj", "down_proj"]
    rename: Rename | None = None
    reads: list[str] = []
    activations: list[str] = []
    layers: MoELayers = MoELayers()
    layer_fields: str | None = None
    mtp: PredictionLayers | None = None
    no_oracle: str | None = None
    num_experts: Source = "num_experts"
    experts_per_token: Source = "num_experts_per_tok"
    hidden_dim: Source = "hidden_size"
    intermediate_size: Source = "moe_intermediate_size"
    activation: Source = LiteralText(literal="silu")
    routing: Routing = Routing()
    router_logits_dtype: Source = None
    has_bias: Source = False
    has_hash_routing: Source = False
    swiglu_limit: Source = None
    swiglu_alpha: Source = None
    swiglu_beta: Source = None
    activation_situ_beta: Source = None
    activation_situ_linear_beta: Source = None
    defers_all_reduce: Source = False
    sequence_parallel: Source = False
    minimum_intermediate_size_per_partition: Source = None
    tensor_parallel_at_most_experts: bool = False
    experts_class: str = ROUTED_EXPERTS
    transforms_experts: Source = False
    balances_experts: bool = False
    needs_moe_layers: bool = False
    pads_experts_to_ranks: bool = False
    quantization: list[QuantizationEdit] = []
    refuse: list[Refusal] = []
    loading: list[LoadCheck] = []
    platforms: dict[PlatformName, Architecture] = {}
    note: str | None = None


class LayerList(Closed):
    """A list with an entry for each decoder layer, of the configurations of these model types.

    ``types``: what an entry may be; absent for anything.
    """

    field: str
    model_types: list[str]
    types: list[str] | None = None


class ArchitecturesFile(TableFile):
    """``rules/models/architectures.yaml``.

    ``substitutes_experts``: vLLM reads which experts of a checkpoint constants replace.
    ``expert_counts``: where vLLM looks for the number of experts before it allows expert
    parallelism. ``refuse_layers``: what it refuses in the layers of any model (``layer.*`` are the
    layer's facts).
    """

    substitutes_experts: bool = True
    expert_counts: list[str | FieldSource]
    attention_heads: str
    vocabulary: str = "vocab_size"
    refuse_layers: list[Refusal] = []
    refuse: list[Refusal] = []
    layer_lists: list[LayerList] = []
    loading: list[LoadCheck] = []
    activation_aliases: dict[str, str]
    config_classes: dict[str, ConfigClass]
    architectures: dict[str, Architecture]
    no_longer_supported: dict[str, str]

    @model_validator(mode="after")
    def _like_names_exist(self) -> ArchitecturesFile:
        for name, row in self.architectures.items():
            if row.like is not None:
                named(("architectures", name, "like"), row.like, self.architectures)
        return self


Architecture.model_rebuild()
