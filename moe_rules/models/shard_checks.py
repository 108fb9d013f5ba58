"""What depends on how tensor parallelism cuts a layer: quantization keys and kernel shape checks.

Source: vLLM's ``refine_fp8_moe_block_shape``, ``pad_tp_shard_to_weight_blocks``
(``fused_moe/oracle/fp8.py``) and ``check_moe_marlin_supports_config``
(``quantization/utils/marlin_utils.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import gcd
from typing import Any

from moe_rules.models.conditions import Context
from moe_rules.models.errors import CheckpointRefusedError
from moe_rules.vocabulary.layer import FusedMoEConfig
from moe_rules.vocabulary.quant_keys import CHANNEL, QuantKey, Scale

SMALLEST_REFINED_BLOCK = 32


def fp8_block_for_shard(block: tuple[int, int], layer: FusedMoEConfig) -> tuple[int, int]:
    """The scale block of the weights on one rank, refined if the shard cuts through blocks.

    ``block`` is (rows, columns) of the checkpoint's scales. Rows must divide the partitioned
    intermediate size, and columns too when it really is partitioned. Otherwise the greatest block
    that divides everything is used, unless it would be smaller than 32.
    """
    rows, columns = block
    size = layer.intermediate_size_per_partition
    partitioned = layer.moe_parallel_config.tp_size > 1
    if size % rows == 0 and not (partitioned and size % columns):
        return block
    refined = gcd(rows, columns, size, layer.hidden_dim)
    return block if refined < SMALLEST_REFINED_BLOCK else (refined, refined)


def refined_in_words(block: Any, key: QuantKey | None, layer: FusedMoEConfig) -> str | None:
    """What to say where a key has smaller blocks than the ``block`` of the checkpoint."""
    if key is None or not _is_block(block):
        return None
    rows, columns = block
    refined = fp8_block_for_shard((rows, columns), layer)
    if refined == (rows, columns) or key.scale.group_shape != refined:
        return None
    return (
        f"a rank's {layer.intermediate_size_per_partition} of {layer.intermediate_size} rows cut "
        f"through blocks of {rows}x{columns}, so vLLM gives its weights scales of blocks of "
        f"{refined[0]}x{refined[1]}"
    )


def block_checks(layer: FusedMoEConfig, block: Any) -> dict[str, bool]:
    """The checks that schemes may ask for by name, for weights with square FP8 scale blocks.

    ``shard_pads``: the rank's share is cut into no whole blocks, and would have to be padded.
    ``shard_may_pad``: vLLM pads such a layer. ``block_refines``: a smaller block divides the share.
    """
    if not _is_block(block):
        return {}
    rows, columns = block
    return {
        "shard_pads": rows == columns
        and layer.moe_parallel_config.tp_size > 1
        and layer.intermediate_size_per_partition % rows != 0,
        "shard_may_pad": layer.intermediate_size % rows == 0
        and layer.hidden_dim % rows == 0
        and not layer.is_lora_enabled
        and not layer.has_bias,
        "block_refines": fp8_block_for_shard((rows, columns), layer) != (rows, columns),
    }


def _is_block(block: Any) -> bool:
    return (
        isinstance(block, list)
        and len(block) == 2
        and all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in block)
    )


def _padded_to_blocks(context: Context, layer: FusedMoEConfig) -> FusedMoEConfig:
    """The layer whose share of the intermediate size is padded to whole FP8 scale blocks."""
    rows = context["weight_block_size"][0]
    padded = -(-layer.intermediate_size_per_partition // rows) * rows
    return replace(layer, intermediate_size_per_partition=padded)


LAYER_CHANGES: dict[str, Callable[[Context, FusedMoEConfig], FusedMoEConfig]] = {
    "padded_to_blocks": _padded_to_blocks,
}
"""What a quantization method does to a layer before it selects, under the tables' names."""


def marlin_takes_shape(
    layer: FusedMoEConfig, group_size: int, machine: Mapping[str, Any], *, pads_tiles: bool
) -> bool:
    """Whether the fused Marlin kernel takes this layer's shard with this quantization group.

    With ``pads_tiles`` the intermediate size need not be a multiple of the kernel's tile (64).
    """
    if machine.get("device") == "rocm" or group_size not in (-1, 32, 64, 128):
        return False
    size = layer.intermediate_size_per_partition_unpadded
    assert size is not None
    if layer.hidden_dim % 128:
        return False
    if pads_tiles:
        return group_size <= 0 or size % group_size == 0
    return size % max(64, group_size) == 0


def shape_checks(
    layer: FusedMoEConfig, machine: Mapping[str, Any], group_size: Any
) -> dict[str, bool]:
    """The checks that schemes may ask for by name, for a layer quantized in groups."""
    if not isinstance(group_size, int) or isinstance(group_size, bool):
        return {}
    size = layer.intermediate_size_per_partition
    return {
        "marlin_shape": marlin_takes_shape(layer, group_size, machine, pads_tiles=True),
        "marlin_unpadded_shape": marlin_takes_shape(layer, group_size, machine, pads_tiles=False),
        "group_divides_shard": group_size <= 0
        or (layer.hidden_dim % group_size == 0 and size % group_size == 0),
        "halved_group_divides_shard": _halved_group_divides(group_size, size, layer.hidden_dim),
    }


def _halved_group_divides(group_size: int, *sizes: int) -> bool:
    """Whether the group, halved as often as it takes but not below 32, divides every size."""
    while group_size > 0 and any(size % group_size for size in sizes):
        group_size //= 2
        if group_size < 32:
            return False
    return True


def _fp8_block(context: Context, layer: FusedMoEConfig) -> QuantKey:
    block = context["weight_block_size"]
    if not _is_block(block):
        raise CheckpointRefusedError(
            f"weight_block_size must be two positive integers, not {block!r}", "quant_method"
        )
    shape = fp8_block_for_shard((block[0], block[1]), layer)
    return QuantKey("fp8_e4m3", Scale("fp32", True, shape))


def _packed_int(context: Context, layer: FusedMoEConfig) -> QuantKey:
    """Packed integers of a width that has no named key: one fp16 scale for each group."""
    bits, group_size = context["weights.num_bits"], context["weights.group_size"]
    symmetric = context["weights.symmetric"]
    dtype = f"uint{bits}b{1 << (bits - 1)}" if symmetric else f"uint{bits}"
    shape = CHANNEL if group_size in (None, -1) else (1, group_size)
    return QuantKey(dtype, Scale("fp16", True, shape), symmetric=symmetric)


def _int8_asymmetric(context: Context, layer: FusedMoEConfig) -> QuantKey:
    return QuantKey("uint8", Scale("fp16", True, (1, -1)), symmetric=False)


def _int4_in_int8(context: Context, layer: FusedMoEConfig) -> QuantKey:
    """Four-bit weights stored as int8: fp32 scales for channels, bf16 scales for groups."""
    group_size = context["weights.group_size"]
    if group_size in (None, -1):
        return QuantKey("int8", Scale("fp32", True, CHANNEL))
    return QuantKey("int8", Scale("bf16", True, (1, group_size)))


COMPUTED_KEYS: dict[str, Callable[[Context, FusedMoEConfig], QuantKey]] = {
    "fp8_block_for_shard": _fp8_block,
    "packed_int": _packed_int,
    "int8_asymmetric": _int8_asymmetric,
    "int4_in_int8": _int4_in_int8,
}
"""Quantization keys that follow from sizes, under the names the tables use."""
