"""How the experts of a module are quantized: transformers' FP8, in blocks or whole.

transformers keeps FP8 experts as it keeps others, with scales beside the weights. What it loads
from compressed-tensors checkpoints is dequantized when it arrives here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from moe_rules.vocabulary.quant_keys import CHANNEL, NAMED_KEYS, QuantKey, Scale


class Scheme(NamedTuple):
    """The oracle of a layer, and how its weights and activations are quantized."""

    oracle: str
    weight_key: QuantKey | None = None
    activation_key: QuantKey | None = None


def scheme_of(module: Any, w13: torch.Tensor, scale: torch.Tensor | None) -> Scheme:
    """The scheme of a module with weights ``w13`` and their ``scale``.

    Raises ValueError for weights that no kernel here takes as they are.
    """
    if scale is None:
        return Scheme("unquantized")
    if w13.dtype != torch.float8_e4m3fn:
        raise ValueError(f"its weights are quantized as {w13.dtype}, and only FP8 is taken")
    if module.activation_scheme != "dynamic":
        raise ValueError("its activations have a static scale for each expert")
    if module.block_size is None:
        # Gate and up have a scale each: scales by row say the same, and nothing is requantized.
        by_row, by_token = NAMED_KEYS["kFp8StaticChannelSym"], NAMED_KEYS["kFp8DynamicTokenSym"]
        return Scheme("fp8", by_row, by_token)
    rows, columns = module.block_size
    weights = QuantKey("fp8_e4m3", Scale("fp32", True, (rows, columns)))
    return Scheme("fp8", weights, QuantKey("fp8_e4m3", Scale("fp32", False, (1, columns))))


def kernel_scale(scale: torch.Tensor, weight: torch.Tensor, key: QuantKey) -> torch.Tensor:
    """The float32 scale of ``weight`` [E, N, K] as ``key`` has it, of a module's ``scale``.

    Blocks keep their shape. One for as many rows as there are for each, [E, shards, 1], becomes
    [E, N, 1]. Raises ValueError for scales of blocks that do not cover the weight as they should:
    where the rows of gate are no whole blocks, some checkpoints begin anew for up.
    """
    rows, columns = key.scale.group_shape
    if key.scale.group_shape == CHANNEL:
        return scale.float().repeat_interleave(weight.shape[1] // scale.shape[1], dim=1)
    blocks = [-(-weight.shape[1] // rows), -(-weight.shape[2] // columns)]
    if list(scale.shape[1:]) != blocks:
        raise ValueError(
            f"its weights of {list(weight.shape[1:])} need {blocks} scales for blocks of "
            f"{[rows, columns]}, and have {list(scale.shape[1:])}"
        )
    return scale.float().contiguous()
