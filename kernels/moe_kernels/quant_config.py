"""How one layer's weights and activations are quantized, with the tensors that says."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from moe_rules.quant_keys import CHANNEL, TENSOR, TOKEN, QuantKey


@dataclass(frozen=True, eq=False, kw_only=True)
class FusedMoEQuantConfig:
    """The quantization scheme of a MoE layer, its scales, its biases and its SwiGLU constants.

    E counts the local experts, H is the hidden size, I the intermediate size per partition; for
    an activation without a gate read I where it says 2I. All scales are float32 and multiply the
    stored values: ``value = stored * scale``.

    ``weight_key``, ``activation_key``: how w13 and w2, and the inputs of both GEMMs, are
    quantized; None: they are not.

    ``w13_scale``, ``w2_scale``: by the weight key's group shape,

    - tensor: [E]
    - channel: [E, 2I, 1] and [E, H, 1]
    - block (r, c): [E, ceil(2I / r), ceil(H / c)] and [E, ceil(H / r), ceil(I / c)]

    ``a13_scale``, ``a2_scale``: one element each, for static activation scales only.

    ``w13_bias``, ``w2_bias``: [E, 2I] and [E, H], any floating dtype.

    ``swiglu_limit``, ``swiglu_alpha``, ``swiglu_beta``: override the layer's
    (:func:`moe_kernels.activation.activation_parameters` says what they mean).

    The class is vLLM's ``FusedMoEQuantConfig`` (``fused_moe/config.py``) with its four
    descriptions written as two keys and their tensors.
    """

    weight_key: QuantKey | None = None
    activation_key: QuantKey | None = None
    w13_scale: torch.Tensor | None = None
    w2_scale: torch.Tensor | None = None
    a13_scale: torch.Tensor | None = None
    a2_scale: torch.Tensor | None = None
    w13_bias: torch.Tensor | None = None
    w2_bias: torch.Tensor | None = None
    swiglu_limit: float | None = None
    swiglu_alpha: float | None = None
    swiglu_beta: float | None = None

    def __post_init__(self) -> None:
        for name, key in (("weight", self.weight_key), ("activation", self.activation_key)):
            static = key is not None and key.scale.static
            fields = ("w13_scale", "w2_scale") if name == "weight" else ("a13_scale", "a2_scale")
            for field in fields:
                scale = getattr(self, field)
                if static and scale is None:
                    raise ValueError(f"{name} key {key} has static scales, but {field} is None")
                if not static and scale is not None:
                    raise ValueError(f"{field} is given, but {name} key {key} has no static scale")
                if scale is not None and scale.dtype != torch.float32:
                    raise ValueError(f"{field} must be float32, got {scale.dtype}")

    @property
    def weight_block_shape(self) -> tuple[int, int] | None:
        """(rows, columns) of a weight block that shares one scale; None if not in blocks."""
        if self.weight_key is None:
            return None
        shape = self.weight_key.scale.group_shape
        return None if shape in (TENSOR, TOKEN, CHANNEL) else shape

    @property
    def activation_group_shape(self) -> tuple[int, int] | None:
        """(rows, columns) of activations that share one scale; None: not quantized.

        With weights in blocks of (r, c) this is (1, c) whatever the activation key says, as in
        vLLM: both operands of a GEMM must change scale at the same places.
        """
        if self.activation_key is None:
            return None
        block = self.weight_block_shape
        return self.activation_key.scale.group_shape if block is None else (1, block[1])
