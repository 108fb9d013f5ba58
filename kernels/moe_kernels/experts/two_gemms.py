"""What experts in Triton share: a layer is two grouped GEMMs and a weighted sum."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch

from moe_kernels.dtypes import torch_dtype
from moe_kernels.experts.layer_launches import Scheme, layer_launches
from moe_kernels.experts.weight_specs import weight_specs
from moe_kernels.modular_kernel import FusedMoEExperts, PrepareResult
from moe_kernels.ops.gemm_launch import GemmTensors, pairs_tensors
from moe_kernels.ops.library import register_operator
from moe_kernels.ops.quantize_activations import quantize_activations
from moe_kernels.quant_config import FusedMoEQuantConfig
from moe_kernels.routing import Routing
from moe_kernels.tensor_spec import spec_of, spec_of_optional
from moe_rules.vocabulary.layer import FusedMoEConfig


def _fake_two_gemms(
    hidden_states: torch.Tensor, dtype: torch.dtype, unsummed: bool, *others: Any
) -> torch.Tensor:
    topk_ids = others[4]
    rows = topk_ids.shape[0] * topk_ids.shape[1] if unsummed else topk_ids.shape[0]
    return hidden_states.new_empty(rows, hidden_states.shape[1], dtype=dtype)


@register_operator(_fake_two_gemms)
def two_gemms(
    hidden_states: torch.Tensor,
    dtype: torch.dtype,
    unsummed: bool,
    hidden_states_scale: torch.Tensor | None,
    w13: torch.Tensor,
    w2: torch.Tensor,
    topk_weights: torch.Tensor | None,
    topk_ids: torch.Tensor,
    global_num_experts: int,
    expert_map: torch.Tensor | None,
    activation: str,
    limit: float | None,
    alpha: float,
    beta: float,
    situ_beta: float,
    situ_linear_beta: float | None,
    weight_format: str | None,
    weight_block_shape: list[int] | None,
    activation_format: str | None,
    activation_group_shape: list[int] | None,
    native_mx: bool,
    w13_tensors: list[torch.Tensor | None],
    w2_tensors: list[torch.Tensor | None],
) -> torch.Tensor:
    """(Align, quantization,) GEMM and activation, (quantization,) GEMM, weighted sum.

    ``topk_weights`` None: the tokens are weighed already. ``weight_format``: of weights that are
    dequantized as they are loaded; None: they are multiplied as they are.
    ``activation_group_shape``: of the inputs of both GEMMs, None: they are not quantized; those
    of the first are, unless ``hidden_states`` are already;
    ``activation_format``: the format that ``weight_format`` goes with. ``w13_tensors``,
    ``w2_tensors``: :meth:`moe_kernels.quant_config.FusedMoEQuantConfig.gemm_tensors`.
    Returns [M, H] in ``dtype``; where ``unsummed``, [M * topk, H], the rows before the sum.
    """
    if topk_ids.numel() == 0 or w13.shape[0] == 0:
        rows = topk_ids.numel() if unsummed else topk_ids.shape[0]
        return hidden_states.new_zeros(rows, hidden_states.shape[1], dtype=dtype)
    topk_ids, _, expert_map = Routing(topk_ids, global_num_experts, expert_map).contiguous()
    if topk_weights is not None:
        topk_weights = topk_weights.contiguous()
    launches = layer_launches(
        spec_of(hidden_states),
        spec_of_optional(hidden_states_scale),
        dtype,
        weight_specs(w13, w13_tensors),
        weight_specs(w2, w2_tensors),
        hidden_states.data_ptr() % 16 == 0,
        (w13.data_ptr() | w2.data_ptr()) % 16 == 0,
        topk_ids.shape[1],
        global_num_experts,
        expert_map is not None,
        topk_weights is not None,
        unsummed,
        (activation, limit, alpha, beta, situ_beta, situ_linear_beta),
        Scheme(
            weight_format,
            _pair(weight_block_shape),
            activation_format,
            _pair(activation_group_shape),
            native_mx,
        ),
    )
    a, a_scale, routing = hidden_states, hidden_states_scale, (topk_ids, expert_map)
    pairs: GemmTensors = (None, None, None, *routing, None, None)
    if launches.sort is not None:
        pairs = pairs_tensors(launches.sort(*routing))
    if launches.quantize_tokens is not None:
        a, a_scale = launches.quantize_tokens(a, w13_tensors[4], *routing, pairs[0], pairs[2])
    elif launches.static_in_gemms and a_scale is None:
        a_scale = w13_tensors[4]
    if launches.sort_tokens is not None:
        a = launches.sort_tokens(a, pairs[0], pairs[2])
    intermediate = None
    if activation_format is not None:
        # Scales may be taken over all rows, also those that the GEMM does not write.
        intermediate = a.new_zeros(launches.up.shape, dtype=dtype)
    a = launches.up(a, a_scale, w13, w13_tensors[:4], pairs, out=intermediate)
    a_scale, scale, scale_2 = None, *w2_tensors[4:]
    if launches.quantize_intermediate is not None:
        a, a_scale = launches.quantize_intermediate(a, scale, *routing, pairs[0], pairs[2])
    elif launches.static_in_gemms:
        a_scale = scale
    elif activation_format is not None:
        emulate = not native_mx
        a, a_scale = quantize_activations(
            a, activation_format, activation_group_shape, scale, scale_2, emulate
        )
    output = launches.down(a, a_scale, w2, w2_tensors[:4], pairs, topk_weights)
    if launches.sum is None:
        return output
    total = output.new_empty(hidden_states.shape)
    launches.sum(output, total, topk_weights, *routing)
    return total


def _pair(shape: list[int] | None) -> tuple[int, int] | None:
    return None if shape is None else (shape[0], shape[1])


class TwoGemmExperts(FusedMoEExperts):
    """Hands what the layer's config says to the operator. Layers in bf16, fp16 or fp32."""

    can_leave_sum = True
    packs_weights: ClassVar[bool]
    """Whether weights are dequantized as they are loaded."""
    _block_shape: list[int] | None = None
    _group_shape: list[int] | None = None
    _activation_format: str | None = None

    def __init__(self, moe_config: FusedMoEConfig, quant_config: FusedMoEQuantConfig) -> None:
        super().__init__(moe_config, quant_config)
        self._dtype = torch_dtype(moe_config.in_dtype)
        self._w13_tensors, self._w2_tensors = (
            [None if x is None else x.contiguous() for x in tensors]
            for tensors in quant_config.gemm_tensors()
        )

    @property
    def _native_mx(self) -> bool:
        """Whether mxfp8 is multiplied as such."""
        return False

    @abstractmethod
    def check_dtypes(
        self, hidden_states: torch.Tensor, w13: torch.Tensor, w2: torch.Tensor
    ) -> None:
        """Raise ValueError for tokens and weights that are not what these experts take."""

    def apply(
        self, prepared: PrepareResult, w13: torch.Tensor, w2: torch.Tensor, activation: str
    ) -> torch.Tensor:
        """See :meth:`moe_kernels.modular_kernel.FusedMoEExperts.apply`.

        Raises ValueError for tensors on the CPU, tokens and weights of another dtype than expected,
        and scales and biases that do not fit the weights.
        """
        self.check_dtypes(prepared.hidden_states, w13, w2)
        output: torch.Tensor = two_gemms(
            prepared.hidden_states,
            self._dtype,
            prepared.unsummed,
            prepared.hidden_states_scale,
            w13,
            w2,
            prepared.topk_weights,
            *prepared.routing,
            activation,
            *self.activation_parameters(activation),
            self.weight_format if self.packs_weights else None,
            self._block_shape,
            self._activation_format,
            self._group_shape,
            self._native_mx,
            self._w13_tensors,
            self._w2_tensors,
        )
        return output
