"""``TritonExperts``: unquantized, FP8 and INT8 experts in Triton."""

from __future__ import annotations

import torch

from moe_kernels.experts.layer_launches import require_gpu
from moe_kernels.experts.two_gemms import TwoGemmExperts
from moe_kernels.ops.library import register_operator
from moe_kernels.ops.quantize_scaled import quantize_scaled
from moe_kernels.quant_config import FusedMoEQuantConfig
from moe_kernels.routing import Routing
from moe_rules.vocabulary.layer import FusedMoEConfig
from moe_rules.vocabulary.quant_keys import CHANNEL, TENSOR, TOKEN, QuantKey


def _fake_quantize_input(
    x: torch.Tensor, dtype: torch.dtype, group_shape: list[int], *_: object
) -> tuple[torch.Tensor, torch.Tensor]:
    rows, columns = x.shape
    quantized = torch.empty(x.shape, dtype=dtype, device=x.device)
    if tuple(group_shape) == TENSOR:
        return quantized, x.new_empty(1, dtype=torch.float32)
    groups = 1 if tuple(group_shape) == TOKEN else -(-columns // group_shape[1])
    return quantized, x.new_empty(rows, groups, dtype=torch.float32)


@register_operator(_fake_quantize_input)
def quantize_input(
    x: torch.Tensor,
    dtype: torch.dtype,
    group_shape: list[int],
    scale: torch.Tensor | None,
    topk_ids: torch.Tensor,
    global_num_experts: int,
    expert_map: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """:func:`moe_kernels.ops.quantize_scaled.quantize_scaled` as an operator."""
    require_gpu(x.device)
    routing = Routing(topk_ids, global_num_experts, expert_map).contiguous()
    quantized, computed = quantize_scaled(
        x, (group_shape[0], group_shape[1]), scale, dtype, routing
    )
    # An operator may not return its own argument.
    return quantized, computed if scale is None else computed.clone()


def _executes(weight_key: QuantKey | None, activation_key: QuantKey | None) -> bool:
    """Whether the computation above means this pair of keys."""
    if weight_key is None or activation_key is None:
        return weight_key is activation_key
    weight, activated = weight_key.scale, activation_key.scale
    if (weight_key.dtype, activation_key.dtype) == ("int8", "int8"):
        shapes = weight.group_shape, activated.group_shape
        known = shapes in ((CHANNEL, TOKEN), (TENSOR, TENSOR))
        return known and weight_key.symmetric and activation_key.symmetric and not activated.static
    if {weight_key.dtype, activation_key.dtype} != {"fp8_e4m3"}:
        return False
    if {weight.dtype, activated.dtype} != {"fp32"} or weight_key.scale2 or activation_key.scale2:
        return False
    if weight.group_shape in (TENSOR, CHANNEL):
        dynamic = not activated.static and activated.group_shape in (TENSOR, TOKEN)
        return weight.static and (dynamic or activated.group_shape == TENSOR)
    rows, columns = weight.group_shape
    grouped = activated.group_shape[0] == 1 and activated.group_shape[1] > 0
    return weight.static and rows > 0 and columns > 0 and not activated.static and grouped


class TritonExperts(TwoGemmExperts):
    """Experts for CUDA (and ROCm, XPU) in Triton.

    Takes layers in bf16, fp16 or fp32, unquantized or with FP8 weights and activations: per
    tensor (static or dynamic) or channel with tensor or token, or any blocks (r, c) with groups
    of (1, c); or with INT8: per channel with token, or per tensor with dynamic tensor, multiplied
    as integers. w13: [E, 2I, H], w2: [E, H, I], any strides. Named after vLLM's
    ``fused_moe/experts/triton_moe.py``.
    """

    packs_weights = False
    takes_unquantized = True

    def __init__(self, moe_config: FusedMoEConfig, quant_config: FusedMoEQuantConfig) -> None:
        super().__init__(moe_config, quant_config)
        if not _executes(quant_config.weight_key, quant_config.activation_key):
            raise ValueError(
                f"TritonExperts does not execute weights {quant_config.weight_key} with "
                f"activations {quant_config.activation_key}; expected no quantization, or FP8 "
                "weights per tensor or channel with FP8 activations per tensor or token, or in "
                "blocks with groups, or INT8 per channel with token or tensor with tensor"
            )
        group_shape = quant_config.activation_group_shape
        self._group_shape = None if group_shape is None else list(group_shape)
        block_shape = quant_config.weight_block_shape
        self._block_shape = None if block_shape is None else list(block_shape)

    def quantize_input(
        self, hidden_states: torch.Tensor, routing: Routing
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Values and their scales, as the activation key says; unquantized as they are."""
        if self._group_shape is None:
            return hidden_states, None
        quantized, scale = quantize_input(
            hidden_states,
            _DTYPES[str(self.weight_format)],
            self._group_shape,
            self.quant_config.a13_scale,
            *routing,
        )
        return quantized, scale

    def check_dtypes(
        self, hidden_states: torch.Tensor, w13: torch.Tensor, w2: torch.Tensor
    ) -> None:
        """Weights have the dtype of their format, tokens that or, to be quantized, the layer's."""
        expected = _DTYPES.get(str(self.weight_format), self._dtype)
        taken = hidden_states.dtype in (expected, self._dtype)
        if not (taken and w13.dtype == w2.dtype == expected):
            raise ValueError(
                f"{type(self).__name__} needs {expected} weights and {self._dtype} tokens here, "
                f"got w13 {w13.dtype}, w2 {w2.dtype}, tokens {hidden_states.dtype}"
            )


_DTYPES = {"fp8": torch.float8_e4m3fn, "int8": torch.int8}
"""The dtypes of quantized weights and tokens."""
