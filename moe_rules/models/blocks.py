"""The shapes of checkpoints' quantization blocks: every field that is read, with its type.

A block is held against the shape of its format before it is read, so that readers of formats and
conditions of the tables meet values of known types only. What a field means is the format's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator, Field
from pydantic.types import Tag
from pydantic_core import PydanticCustomError

from moe_rules.models.errors import PatternError
from moe_rules.models.patterns import compiled
from moe_rules.models.place import Checkpoint, LayerResolver
from moe_rules.models.typed import FlagOrText, Integer, Positive, Shape, Texts, alternatives, check

Reader: TypeAlias = Callable[[Checkpoint], LayerResolver]


def _compiles(pattern: str) -> str:
    try:
        compiled(pattern)
    except PatternError as error:
        raise PydanticCustomError("pattern", f"a regular expression ({error})") from None
    return pattern


def _if_pattern_compiles(name: str) -> str:
    if name.startswith("re:"):
        _compiles(name[3:])
    return name


def _rule_compiles(rule: str) -> str:
    _compiles(rule[2:] if rule[:2] in ("-:", "+:") else rule)
    return rule


def shaped(shape: type[Shape]) -> Callable[[Reader], Reader]:
    """A reader of a format that is given blocks of this shape only. Raises ConfigValueError."""

    def decorate(read: Reader) -> Reader:
        @wraps(read)
        def reader(checkpoint: Checkpoint) -> LayerResolver:
            check(shape, checkpoint.block, checkpoint.context["block.place"])
            return read(checkpoint)

        return reader

    return decorate


Name: TypeAlias = Annotated[str, AfterValidator(_if_pattern_compiles)]
"""A module's name or, after "re:", a regular expression."""
Rule: TypeAlias = Annotated[str, AfterValidator(_rule_compiles)]
"""A regular expression of GPTQModel, after "-:" or "+:" or nothing."""


class Head(Shape):
    """What says which method reads a block."""

    quant_method: str | None = None
    quant_algo: str | None = None
    quantization: dict[str, Any] | None = None


class Block(Shape):
    """A block with one scheme for every layer; all fields that any such method reads."""

    activation_scheme: str | None = None
    weight_block_size: Annotated[list[Positive], Field(min_length=2, max_length=2)] | None = None
    bits: Integer | None = None
    w_bit: Integer | None = None
    group_size: Integer | None = None
    q_group_size: Integer | None = None
    zero_point: bool | None = None
    sym: bool | None = None
    desc_act: bool | None = None
    store_dtype: str | None = None
    moe_quant_algo: str | None = None
    expert_dtype: str | None = None
    routed_experts_quant_method: str | None = None
    ignore: list[str] | None = None
    ignored_layers: list[str] | None = None
    modules_to_not_convert: list[str] | None = None


class DynamicRule(Shape):
    """What a rule of GPTQModel changes."""

    bits: Integer | None = None
    group_size: Integer | None = None
    sym: bool | None = None
    desc_act: bool | None = None


class GPTQBlock(Block):
    """A block of GPTQModel."""

    dynamic: dict[Rule, DynamicRule | None] | None = None


class ModelOptEntry(Shape):
    """The algorithm of one module in ``quantized_layers``."""

    quant_algo: str | None = None
    group_size: Integer | None = None


class ModelOptGroup(Shape):
    """A group of ``config_groups``, of which it only matters whether it has activations."""

    input_activations: dict[str, Any] | None = None


class ModelOptFields(Shape):
    """What ModelOpt writes, flat in config.json and below ``quantization`` in its own file."""

    quant_algo: str | None = None
    config_groups: dict[str, ModelOptGroup] | None = None
    exclude_modules: list[str] | None = None
    ignore: list[str] | None = None
    ignored_layers: list[str] | None = None


class ModelOptBlock(ModelOptFields):
    """A block of ModelOpt."""

    quantization: ModelOptFields | None = None


class ModelOptMixedFields(ModelOptFields):
    """The same with an algorithm for each module."""

    quantized_layers: dict[str, ModelOptEntry] | None = None


class ModelOptMixedBlock(ModelOptMixedFields):
    """A block of ModelOpt with an algorithm for each module."""

    quantization: ModelOptMixedFields | None = None


BlockStructure: TypeAlias = Annotated[
    Annotated[str, Tag("<text>")]
    | Annotated[list[Positive], Field(min_length=2, max_length=2), Tag("<list>")],
    alternatives(custom_error_message="text or a list of two integers"),
]


class QuantizationArguments(Shape):
    """How compressed-tensors quantizes weights or activations."""

    num_bits: Integer = 8
    type: str = "int"
    symmetric: bool = True
    group_size: Integer | None = None
    strategy: str | None = None
    dynamic: FlagOrText = False
    actorder: FlagOrText | None = None
    scale_dtype: str | None = None
    block_structure: BlockStructure | None = None


class CompressedGroup(Shape):
    """A scheme of compressed-tensors with the modules it is for."""

    targets: list[Name] | None = None
    weights: QuantizationArguments | None = None
    input_activations: QuantizationArguments | None = None
    format: str | None = None


class CompressedTensorsBlock(Shape):
    """A block of compressed-tensors."""

    format: str | None = None
    ignore: list[Name] | None = None
    config_groups: dict[str, CompressedGroup] | None = None


class QuarkLevel(Shape):
    """One level of scales of Quark."""

    dtype: str | None = None
    qscheme: str | None = None
    group_size: Integer | None = None
    block_size: list[Integer] | None = None
    ch_axis: Integer | None = None
    is_dynamic: bool | None = None
    symmetric: bool | None = None
    scale_type: str | None = None
    scale_format: str | None = None


QuarkLevels: TypeAlias = Annotated[
    Annotated[QuarkLevel, Tag("<map>")] | Annotated[list[QuarkLevel], Tag("<list>")],
    alternatives(custom_error_message="a mapping or a list of mappings"),
]


class QuarkScheme(Shape):
    """A scheme of Quark."""

    weight: QuarkLevels | None = None
    input_tensors: QuarkLevels | None = None


class QuarkExport(Shape):
    """How Quark packed the weights."""

    pack_method: str | None = None


class QuarkBlock(Shape):
    """A block of Quark."""

    export: QuarkExport | None = None
    exclude: list[Name] | None = None
    global_quant_config: QuarkScheme | None = None
    layer_quant_config: dict[str, QuarkScheme | None] | None = None


class AutoRoundEntry(Shape):
    """What AutoRound sets for some layers."""

    bits: Integer = 16
    group_size: Integer = -1
    sym: bool = True


class AutoRoundBlock(Shape):
    """A block of AutoRound."""

    bits: Integer | None = None
    group_size: Integer | None = None
    sym: bool = True
    data_type: str = "int"
    packing_format: str | None = None
    backend: str | None = None
    vllm_backend: str | None = None
    extra_config: dict[str, AutoRoundEntry] | None = None
    block_name_to_quantize: Texts | None = None
    to_quant_block_names: Texts | None = None
