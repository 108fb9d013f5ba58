"""How one layer's weights and activations are quantized, with the tensors that says."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from moe_kernels.cpu.packed_weights import PackedWeights
from moe_kernels.quantization.schemes import quantization_format
from moe_rules.vocabulary.quant_keys import CHANNEL, TENSOR, TOKEN, QuantKey

_HALF_OR_FLOAT = (torch.float16, torch.bfloat16, torch.float32)
_SCALE_DTYPES: dict[str, tuple[torch.dtype, ...]] = {
    "fp32": (torch.float32,),
    "fp16": _HALF_OR_FLOAT,
    "bf16": _HALF_OR_FLOAT,
    "uint8": (torch.uint8,),
    "fp8_e4m3": (torch.float8_e4m3fn,),
}
"""What scales may be stored as, by the scale dtype of their key."""


@dataclass(frozen=True, eq=False, kw_only=True)
class FusedMoEQuantConfig:
    """The quantization scheme of a MoE layer, its scales, its biases and its SwiGLU constants.

    E counts the local experts, H is the hidden size, I the intermediate size per partition; for
    an activation without a gate read I where it says 2I. Scales multiply the stored values:
    ``value = stored * scale``, ``(stored - zero_point) * scale``, or ``stored * scale * scale_2``.
    :mod:`moe_kernels.quantization.schemes` describes the formats.

    ``weight_key``, ``activation_key``: how w13 and w2, and the inputs of both GEMMs, are
    quantized; None: they are not.

    ``w13_scale``, ``w2_scale``: float32, or as the format says; by the weight key's group shape,

    - tensor: [E]
    - channel: [E, 2I, 1] and [E, H, 1]
    - block (r, c): [E, ceil(2I / r), ceil(H / c)] and [E, ceil(H / r), ceil(I / c)]
    - groups of integers, whatever their size g: [E, 2I, H / g] and [E, H, I / g]

    ``w13_zp``, ``w2_zp``: zero points in the shape of the scales, for asymmetric keys.

    ``w13_scale_2``, ``w2_scale_2``: second scales, float32, [E]; w13's may also be [E, 2I, 1].

    ``a13_scale``, ``a2_scale``: one element each, for static activation scales only.

    ``a13_scale_2``, ``a2_scale_2``: one element each, for static second activation scales only.

    ``w13_bias``, ``w2_bias``: [E, 2I] and [E, H], any floating dtype.

    ``swiglu_limit``, ``swiglu_alpha``, ``swiglu_beta``: override the layer's
    (:func:`moe_kernels.activation.activation_parameters` says what they mean).

    ``packed``: the values of w13 and w2 where a conversion for a CPU packed them, else None.

    The class is vLLM's ``FusedMoEQuantConfig`` (``fused_moe/config.py``) with its four
    descriptions written as two keys and their tensors.
    """

    weight_key: QuantKey | None = None
    activation_key: QuantKey | None = None
    w13_scale: torch.Tensor | None = None
    w2_scale: torch.Tensor | None = None
    a13_scale: torch.Tensor | None = None
    a2_scale: torch.Tensor | None = None
    w13_zp: torch.Tensor | None = None
    w2_zp: torch.Tensor | None = None
    w13_scale_2: torch.Tensor | None = None
    w2_scale_2: torch.Tensor | None = None
    a13_scale_2: torch.Tensor | None = None
    a2_scale_2: torch.Tensor | None = None
    w13_bias: torch.Tensor | None = None
    w2_bias: torch.Tensor | None = None
    swiglu_limit: float | None = None
    swiglu_alpha: float | None = None
    swiglu_beta: float | None = None
    packed: PackedWeights | None = None

    def __post_init__(self) -> None:
        for kind, key, scales in (
            ("weight", self.weight_key, ("w13_scale", "w2_scale")),
            ("activation", self.activation_key, ("a13_scale", "a2_scale")),
        ):
            first = None if key is None else key.scale
            second = None if key is None else key.scale2
            for field in scales:
                self._check(kind, key, field, first is not None and first.static, "scales")
                self._check(
                    kind, key, f"{field}_2", second is not None and second.static, "second scales"
                )
                scale, dtypes = (
                    getattr(self, field),
                    _SCALE_DTYPES.get(first.dtype if first else ""),
                )
                if scale is not None and dtypes is not None and scale.dtype not in dtypes:
                    expected = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
                    raise ValueError(f"{field} must be {expected}, got {scale.dtype}")
        asymmetric = self.weight_key is not None and not self.weight_key.symmetric
        for field in ("w13_zp", "w2_zp"):
            self._check("weight", self.weight_key, field, asymmetric, "zero points")
        for field in ("a13_scale", "a2_scale", "a13_scale_2", "a2_scale_2"):
            scale = getattr(self, field)
            if scale is not None and scale.numel() != 1:
                shape = list(scale.shape)
                raise ValueError(f"{field} must be one element, for all experts, got shape {shape}")

    def _check(self, kind: str, key: QuantKey | None, field: str, wanted: bool, what: str) -> None:
        """Raise ValueError unless ``field`` is there if and only if it is ``wanted``."""
        given = getattr(self, field) is not None
        if wanted and not given:
            raise ValueError(f"{kind} key {key} has static {what}, but {field} is None")
        if given and not wanted:
            raise ValueError(f"{field} is given, but {kind} key {key} has no static {what}")

    def gemm_tensors(self) -> tuple[list[torch.Tensor | None], list[torch.Tensor | None]]:
        """What goes with w13 and with w2, as operators take it.

        Scale, zero point, second scale, bias; scale and second scale of the GEMM's input.
        """
        return (
            [
                self.w13_scale,
                self.w13_zp,
                self.w13_scale_2,
                self.w13_bias,
                self.a13_scale,
                self.a13_scale_2,
            ],
            [
                self.w2_scale,
                self.w2_zp,
                self.w2_scale_2,
                self.w2_bias,
                self.a2_scale,
                self.a2_scale_2,
            ],
        )

    @property
    def weight_format(self) -> str | None:
        """The weights' format, None: unquantized. Raises ValueError for a key that has none."""
        return None if self.weight_key is None else quantization_format(self.weight_key)

    @property
    def activation_format(self) -> str | None:
        """The activations' format, None: unquantized. Raises ValueError if the key has none.

        Not the layout of the tokens: that is
        :class:`moe_kernels.modular_kernel.FusedMoEActivationFormat`.
        """
        return None if self.activation_key is None else quantization_format(self.activation_key)

    @property
    def weight_block_shape(self) -> tuple[int, int] | None:
        """(rows, columns) of an FP8 weight block that shares one scale; None if not in blocks."""
        key = self.weight_key
        # MX groups have e8m0 scales in a uint8.
        if key is None or key.dtype != "fp8_e4m3" or key.scale.dtype == "uint8":
            return None
        shape = key.scale.group_shape
        return None if shape in (TENSOR, TOKEN, CHANNEL) else shape

    @property
    def has_one_dynamic_scale(self) -> bool:
        """Whether a scale is taken from the values of all tokens."""
        return self.activation_group_shape == TENSOR and self.a13_scale is None

    @property
    def activation_group_shape(self) -> tuple[int, int] | None:
        """(rows, columns) of activations that share one scale; None: not quantized.

        With FP8 weights in blocks of (r, c) this is (1, c) whatever the activation key says, as in
        vLLM: both operands of a GEMM must change scale at the same places.
        """
        if self.activation_key is None:
            return None
        block = self.weight_block_shape
        return self.activation_key.scale.group_shape if block is None else (1, block[1])
