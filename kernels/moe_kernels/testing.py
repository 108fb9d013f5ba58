"""A layer with random weights and tokens, to run a kernel on and compare with the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from moe_kernels.activation import activation_parameters
from moe_kernels.dtypes import torch_dtype
from moe_kernels.modular_kernel import FusedMoEKernel
from moe_kernels.quant_config import FusedMoEQuantConfig
from moe_kernels.quantization.minifloat import E2M1
from moe_kernels.quantization.schemes import quantize_weight
from moe_kernels.reference import error_bound, reference_moe
from moe_kernels.routing import expert_map_of
from moe_rules.vocabulary.layer import FusedMoEConfig, FusedMoEParallelConfig
from moe_rules.vocabulary.quant_keys import QuantKey, Scale


@dataclass(frozen=True, eq=False, kw_only=True)
class RandomLayer:
    """One layer's weights, tokens and routing. Fields as in ``FusedMoEKernel.apply``."""

    moe_config: FusedMoEConfig
    quant_config: FusedMoEQuantConfig
    hidden_states: torch.Tensor
    w13: torch.Tensor
    w2: torch.Tensor
    topk_weights: torch.Tensor
    topk_ids: torch.Tensor
    expert_map: torch.Tensor | None

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of :meth:`moe_kernels.modular_kernel.FusedMoEKernel.apply`."""
        return {
            "hidden_states": self.hidden_states,
            "w13": self.w13,
            "w2": self.w2,
            "topk_weights": self.topk_weights,
            "topk_ids": self.topk_ids,
            "activation": self.moe_config.activation,
            "global_num_experts": self.moe_config.num_experts,
            "expert_map": self.expert_map,
        }

    def share(self, held: Sequence[int], parallel: FusedMoEParallelConfig) -> RandomLayer:
        """The layer as a rank of ``parallel`` has it that holds these experts of all."""
        experts = list(held)
        fields = ("w13_scale", "w2_scale", "w13_zp", "w2_zp", "w13_scale_2", "w2_scale_2")
        of_experts = {
            name: getattr(self.quant_config, name) for name in (*fields, "w13_bias", "w2_bias")
        }
        return replace(
            self,
            moe_config=replace(self.moe_config, moe_parallel_config=parallel),
            quant_config=replace(
                self.quant_config,
                **{name: value[experts] for name, value in of_experts.items() if value is not None},
            ),
            w13=self.w13[experts],
            w2=self.w2[experts],
            expert_map=expert_map_of(self.moe_config.num_experts, experts, self.w13.device),
        )

    def tokens(self, rows: slice) -> RandomLayer:
        """The layer with these of its tokens."""
        return replace(
            self,
            hidden_states=self.hidden_states[rows],
            topk_weights=self.topk_weights[rows],
            topk_ids=self.topk_ids[rows],
        )

    def reference(
        self, kernel: FusedMoEKernel | None = None, dtype: torch.dtype = torch.float64
    ) -> torch.Tensor:
        """What ``kernel`` (or any that quantizes activations as the scheme says) should return."""
        activation = self.moe_config.activation
        return reference_moe(
            self.hidden_states,
            self.w13,
            self.w2,
            self.topk_weights,
            self.topk_ids,
            activation=activation,
            parameters=activation_parameters(activation, self.moe_config, self.quant_config),
            quant_config=self.quant_config,
            expert_map=self.expert_map,
            quantize_activations=kernel is None or kernel.experts.quantizes_activations,
            dtype=dtype,
        )

    def error_bound(self, kernel: FusedMoEKernel | None = None) -> float:
        """The largest relative error that ``kernel`` may have against :meth:`reference`."""
        quantizes = kernel is None or kernel.experts.quantizes_activations
        return error_bound(self.hidden_states.dtype, self.quant_config, quantizes)


def random_layer(
    moe_config: FusedMoEConfig,
    weight_key: QuantKey | None = None,
    activation_key: QuantKey | None = None,
    num_tokens: int = 16,
    device: torch.device | str = "cpu",
    seed: int = 0,
    *,
    bias: bool | None = None,
    ep_rank: int = 0,
    expert_map: bool | None = None,
    group_size: int | None = None,
) -> RandomLayer:
    """Draw a layer of ``moe_config`` as one rank has it; the same for the same seed and device.

    Values are such that every GEMM's outputs have a variance near 1. The routing is uniform, with
    ``experts_per_token`` different experts per token and weights that sum to 1. ``bias`` None: as
    the config says. With ``ep_size`` > 1, or ``expert_map`` True, the layer holds the share of
    ``ep_rank`` and an expert_map. ``group_size``: of integer weights whose key covers whole rows.
    Weights are quantized one expert at a time. Raises ValueError for a key without a format
    (:mod:`moe_kernels.quantization.schemes`), or sizes that the format does not divide.
    """
    device = torch.device(device)
    dtype = torch_dtype(moe_config.in_dtype)
    generator = torch.Generator(device).manual_seed(seed)

    def uniform(*shape: int, variance: float = 1.0, of: torch.dtype = dtype) -> torch.Tensor:
        limit = (3.0 * variance) ** 0.5
        values = torch.empty(*shape, dtype=of, device=device)
        return values.uniform_(-limit, limit, generator=generator)

    num_experts, topk = moe_config.num_experts, moe_config.experts_per_token
    ep_size = moe_config.moe_parallel_config.ep_size
    local, mapping = num_experts, None
    if expert_map or (expert_map is None and ep_size > 1):
        held = moe_config.experts_of(ep_rank)
        local, mapping = len(held), expert_map_of(num_experts, held, device)

    hidden = moe_config.hidden_dim
    intermediate = moe_config.intermediate_size_per_partition
    n13 = intermediate * (2 if moe_config.is_act_and_mul else 1)

    def weights(rows: int, columns: int) -> list[torch.Tensor | None]:
        """Values, scale, zero point and second scale."""
        if weight_key is None:
            return [uniform(local, rows, columns, variance=1.0 / columns), None, None, None]
        experts = []
        for expert in range(local):
            # Experts differ in magnitude, so that a scale taken from another one shows.
            wide = uniform(rows, columns, variance=(1 + expert % 3) / columns, of=torch.float32)
            experts.append(quantize_weight(wide, weight_key, group_size))
        return [
            None if parts[0] is None else torch.stack(parts) for parts in zip(*experts, strict=True)
        ]

    w13, w13_scale, w13_zp, w13_scale_2 = weights(n13, hidden)
    w2, w2_scale, w2_zp, w2_scale_2 = weights(hidden, intermediate)
    assert w13 is not None
    assert w2 is not None
    with_bias = moe_config.has_bias if bias is None else bias

    def static_scale(scale: Scale | None, largest: float) -> torch.Tensor | None:
        """The scale with which activations up to ``largest`` are in range."""
        if scale is None or not scale.static:
            return None
        return torch.tensor([largest], dtype=torch.float32, device=device)

    a_scale = None if activation_key is None else activation_key.scale
    a_scale_2 = None if activation_key is None else activation_key.scale2
    fp8_max = torch.finfo(torch.float8_e4m3fn).max
    nvfp4_max = E2M1.max * fp8_max
    scores = torch.rand(
        num_tokens, num_experts, generator=generator, dtype=torch.float32, device=device
    )
    topk_weights, topk_ids = scores.topk(topk, dim=1)
    return RandomLayer(
        moe_config=moe_config,
        quant_config=FusedMoEQuantConfig(
            weight_key=weight_key,
            activation_key=activation_key,
            w13_scale=_flat(w13_scale),
            w2_scale=_flat(w2_scale),
            w13_zp=w13_zp,
            w2_zp=w2_zp,
            w13_scale_2=_flat(w13_scale_2),
            w2_scale_2=_flat(w2_scale_2),
            a13_scale=static_scale(a_scale, 1.8 / fp8_max),
            a2_scale=static_scale(a_scale, 12.0 / fp8_max),
            a13_scale_2=static_scale(a_scale_2, 1.8 / nvfp4_max),
            a2_scale_2=static_scale(a_scale_2, 12.0 / nvfp4_max),
            w13_bias=uniform(local, n13) if with_bias else None,
            w2_bias=uniform(local, hidden) if with_bias else None,
        ),
        hidden_states=uniform(num_tokens, hidden),
        w13=w13,
        w2=w2,
        topk_weights=topk_weights / topk_weights.sum(dim=1, keepdim=True),
        topk_ids=topk_ids.to(torch.int32),
        expert_map=mapping,
    )


def _flat(scale: torch.Tensor | None) -> torch.Tensor | None:
    """Scales per tensor, [E] or [E, 1], as [E]; others as they are."""
    return scale.flatten() if scale is not None and scale.dim() <= 2 else scale
