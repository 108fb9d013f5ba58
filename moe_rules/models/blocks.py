"""The shapes of checkpoints' quantization blocks: every field that is read, with its type.

A block is held against the shape of its format before it is read, so that readers of formats and
conditions of the tables meet values of known types only. What a field means is the format's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, TypeAlias

from moe_rules.models.conditions import Context
from moe_rules.models.errors import CheckpointRefusedError, PatternError
from moe_rules.models.patterns import compiled
from moe_rules.models.place import Checkpoint, LayerResolver
from moe_rules.models.typed import (
    Misfit,
    Shape,
    anything,
    either,
    flag,
    integer,
    lax_flag,
    lax_integer,
    listed,
    mapped,
    optional,
    positive,
    read,
    text,
    texts,
    unless_false,
    whole,
    word,
)

Reader: TypeAlias = Callable[[Checkpoint], LayerResolver]


def shaped(shape: Shape) -> Callable[[Reader], Reader]:
    """A reader of a format that is given blocks as this shape reads them, and no others.

    Raises ConfigValueError.
    """

    def decorate(read_block: Reader) -> Reader:
        @wraps(read_block)
        def reader(checkpoint: Checkpoint) -> LayerResolver:
            block = read(shape, checkpoint.block, checkpoint.context["block.place"])
            context = Context(block, **checkpoint.context.groups)
            return read_block(checkpoint.replaced(block=block, context=context))

        return reader

    return decorate


def given(fields: Mapping[str, Any], name: str, absent: Any = None, where: str = "") -> Any:
    """A field that vLLM reads as it is: where it may be absent, it may still not be null.

    ``where`` leads to the fields. Raises CheckpointRefusedError.
    """
    value = fields.get(name, absent)
    if value is None:
        how = "gives null for" if name in fields else "does not give"
        raise CheckpointRefusedError(f"the quantization block {how} {where + name!r}")
    return value


def _pattern(pattern: str) -> str:
    try:
        compiled(pattern)
    except PatternError as error:
        raise Misfit(f"a regular expression ({error})", pattern) from None
    return pattern


def module_name(value: object) -> str:
    """A module's name or, after "re:", a regular expression."""
    given = text(value)
    if given.startswith("re:"):
        _pattern(given[3:])
    return given


def rule(value: object) -> str:
    """A regular expression of GPTQModel, after "-:" or "+:" or nothing."""
    given = text(value)
    _pattern(given[2:] if given[:2] in ("-:", "+:") else given)
    return given


def _group_size(value: object) -> int:
    """As pydantic takes it, but it may not be text: it is compared before."""
    return whole(value) if isinstance(value, str) else lax_integer(value)


def _dtype(value: object) -> str:
    """A dtype of torch's, by its name."""
    name = text(value)
    if name.removeprefix("torch.") not in DTYPES:
        raise Misfit("a dtype of torch", value)
    return name.removeprefix("torch.")


def _local(value: str) -> str:
    """Of what may be dynamic, the part that is so for each group."""
    if value.lower() != "local":
        raise Misfit("true, false or 'local'", value)
    return value.lower()


HEAD = Shape(
    quant_method=optional(text),
    quant_algo=optional(text),
    quantization=optional(mapped(anything)),
)
"""What says which method reads a block."""
TAKEN_BY_TRUTH = ("zero_point", "desc_act")
"""Flags that vLLM takes by their truth: null and 0 are false, text is true, be it "false"."""
BLOCK = Shape(
    activation_scheme=optional(text),
    weight_block_size=optional(listed(positive, 2)),
    bits=optional(integer),
    w_bit=optional(integer),
    group_size=optional(integer),
    q_group_size=optional(integer),
    store_dtype=optional(text),
    moe_quant_algo=optional(text),
    expert_dtype=optional(text),
    routed_experts_quant_method=optional(text),
    ignore=optional(listed(text)),
    ignored_layers=optional(listed(text)),
    modules_to_not_convert=optional(listed(text)),
)
"""A block with one scheme for every layer; all fields that any such method reads."""
GPTQ_BLOCK = Shape(BLOCK, dynamic=optional(mapped(optional(mapped(anything)), rule)))
"""A block of GPTQModel."""
MODELOPT_ENTRY = Shape(
    quant_algo=optional(text),
    group_size=optional(whole),
)
"""The algorithm of one module in ``quantized_layers``."""
MODELOPT_GROUP = Shape(input_activations=optional(mapped(anything)))
"""A group of ``config_groups``, of which it only matters whether it has activations."""
MODELOPT_FIELDS = Shape(
    quant_algo=optional(text),
    config_groups=optional(mapped(MODELOPT_GROUP)),
    exclude_modules=optional(listed(text)),
    ignore=optional(listed(text)),
    ignored_layers=optional(listed(text)),
)
"""What ModelOpt writes, flat in config.json and below ``quantization`` in its own file."""
MODELOPT_BLOCK = Shape(
    MODELOPT_FIELDS,
    quantization=optional(MODELOPT_FIELDS),
)
"""A block of ModelOpt."""
MODELOPT_MIXED_FIELDS = Shape(
    MODELOPT_FIELDS,
    quantized_layers=optional(mapped(MODELOPT_ENTRY)),
)
"""The same with an algorithm for each module."""
MODELOPT_MIXED_BLOCK = Shape(
    MODELOPT_MIXED_FIELDS,
    quantization=optional(MODELOPT_MIXED_FIELDS),
)
"""A block of ModelOpt with an algorithm for each module."""
DTYPES = frozenset(
    (
        *("uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64", "bool"),
        *("float16", "half", "bfloat16", "float32", "float", "float64", "double"),
        *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
        "float4_e2m1fn_x2",
    )
)
"""Dtypes of torch that scales and zero points may have."""
BLOCK_STRUCTURE = either("text or a list of two integers", (str, text), (list, listed(positive, 2)))
ACTIVATION_ORDER = either(
    "true, false or text",
    (str, word("group", "weight", "dynamic", "static")),
    (bool, lambda value: "group" if value else None),
)
QUANTIZATION_ARGUMENTS = Shape(
    num_bits=lax_integer,
    type=word("int", "float"),
    symmetric=lax_flag,
    group_size=optional(_group_size),
    strategy=optional(
        word("tensor", "channel", "group", "block", "token", "tensor_group", "attn_head")
    ),
    dynamic=either("true, false or 'local'", (str, _local), (object, lax_flag)),
    actorder=optional(ACTIVATION_ORDER),
    scale_dtype=optional(_dtype),
    zp_dtype=optional(_dtype),
    block_structure=optional(BLOCK_STRUCTURE),
    observer=optional(text),
    observer_kwargs=mapped(anything),
)
"""How compressed-tensors quantizes weights or activations: all fields that there are."""
COMPRESSED_GROUP = Shape(
    targets=optional(listed(module_name)),
    weights=optional(QUANTIZATION_ARGUMENTS),
    input_activations=unless_false(QUANTIZATION_ARGUMENTS),
    output_activations=unless_false(QUANTIZATION_ARGUMENTS),
    format=optional(text),
)
"""A scheme of compressed-tensors with the modules it is for."""
COMPRESSED_TENSORS_BLOCK = Shape(
    format=optional(text),
    ignore=optional(listed(module_name)),
    config_groups=optional(mapped(COMPRESSED_GROUP)),
    kv_cache_scheme=optional(mapped(anything)),
)
"""A block of compressed-tensors."""
QUARK_LEVEL = Shape(
    dtype=optional(text),
    qscheme=optional(text),
    group_size=optional(whole),
    block_size=optional(listed(whole)),
    ch_axis=optional(whole),
    is_dynamic=optional(flag),
    symmetric=optional(flag),
    scale_type=optional(text),
    scale_format=optional(text),
)
"""One level of scales of Quark."""
QUARK_LEVELS = either(
    "a mapping or a list of mappings", (Mapping, QUARK_LEVEL), (list, listed(QUARK_LEVEL))
)
QUARK_SCHEME = Shape(
    weight=optional(QUARK_LEVELS),
    input_tensors=optional(QUARK_LEVELS),
)
"""A scheme of Quark."""
QUARK_EXPORT = Shape(pack_method=optional(text))
"""How Quark packed the weights."""
QUARK_BLOCK = Shape(
    export=optional(QUARK_EXPORT),
    exclude=optional(listed(module_name)),
    global_quant_config=optional(QUARK_SCHEME),
    layer_quant_config=optional(mapped(optional(QUARK_SCHEME))),
)
"""A block of Quark."""
AUTO_ROUND_ENTRY = Shape(
    bits=integer,
    group_size=integer,
)
"""What AutoRound sets for some layers."""
AUTO_ROUND_BLOCK = Shape(
    bits=optional(integer),
    group_size=optional(integer),
    data_type=text,
    packing_format=optional(text),
    backend=optional(text),
    vllm_backend=optional(text),
    extra_config=optional(mapped(AUTO_ROUND_ENTRY)),
    block_name_to_quantize=optional(texts),
    to_quant_block_names=optional(texts),
)
"""A block of AutoRound."""
