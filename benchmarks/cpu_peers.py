"""What the CPU benchmark measures: our experts and the alternatives, one small adapter each.

An adapter takes a layer and returns a function of the layer's tokens, or None if it does not run
such layers or is not installed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from moe_kernels.benchmark.peers import Adapter, Run
from moe_kernels.cpu.packed_weights import PackedUnquantized
from moe_kernels.layouts import LayerWeights
from moe_kernels.layouts.packed_for_cpu import packed_where_possible
from moe_kernels.quantization.schemes import QuantizedWeight, dequantize_weight
from moe_kernels.registry.bind import bind
from moe_kernels.testing import RandomLayer

GATHERED_BYTES = 4 << 30
"""batched_mm copies the weights of every pair of token and expert; beyond this it is left out."""


KERNELS: Mapping[str | None, str] = {
    None: "CPUUnquantizedExperts",
    "fp8": "CPUExpertsFp8",
    "int8": "CPUExpertsInt8",
    "int4": "CPUExpertsInt4",
    "mxfp4": "CPUExpertsMxfp4",
}
"""Ours by the format of weights; FP8 with FP8 activations has its own."""


def _kernel_name(layer: RandomLayer) -> str:
    config = layer.quant_config
    if config.weight_format == "fp8" and config.activation_key is not None:
        return "CPUExpertsFp8W8A8"
    return KERNELS[config.weight_format]


def ours(dequantize: bool) -> Adapter:
    """The CPU experts that execute the layer's scheme, with weights converted when loaded."""

    def adapter(layer: RandomLayer) -> Run | None:
        config, name = layer.quant_config, _kernel_name(layer)
        fields = ("w13_scale", "w2_scale", "w13_zp", "w2_zp", "weight_key")
        weights = LayerWeights(layer.w13, layer.w2, **{f: getattr(config, f) for f in fields})
        weights = packed_where_possible(name, weights, layer.hidden_states.dtype, dequantize)
        if dequantize and not _holds_copies(weights):
            return None
        kernel = bind(name, layer.moe_config, replace(config, packed=weights.packed))
        converted = {"w13": weights.w13, "w2": weights.w2}
        return lambda tokens: kernel.apply(**tokens.arguments() | converted)

    return adapter


def _holds_copies(weights: LayerWeights) -> bool:
    """Whether what is packed are not the weights as they are but copies in another dtype."""
    packed = None if weights.packed is None else weights.packed.w13
    if not isinstance(packed, PackedUnquantized):
        return False
    return weights.weight_key is not None or packed.experts[0].dtype != weights.w13.dtype


def ours_unpacked(layer: RandomLayer) -> Run | None:
    """The same with weights as they are stored, where conversion packs them."""
    if layer.quant_config.weight_format in ("fp8", "int4", "mxfp4"):
        return None
    kernel = bind(_kernel_name(layer), layer.moe_config, layer.quant_config)
    return lambda tokens: kernel.apply(**tokens.arguments())


@functools.lru_cache(maxsize=1)
def _dequantized(layer: RandomLayer) -> tuple[torch.Tensor, torch.Tensor]:
    """w13 and w2 in the layer's dtype."""
    config, dtype = layer.quant_config, layer.hidden_states.dtype
    if config.weight_key is None:
        return layer.w13, layer.w2

    def values(name: str) -> torch.Tensor:
        w, scale, zeros = (
            getattr(layer, name),
            *(getattr(config, name + part) for part in ("_scale", "_zp")),
        )
        assert config.weight_key is not None
        return torch.stack(
            [
                dequantize_weight(
                    QuantizedWeight(w[e], scale[e], None if zeros is None else zeros[e]),
                    config.weight_key,
                    dtype,
                )
                for e in range(len(w))
            ]
        )

    return values("w13"), values("w2")


def transformers(implementation: str) -> Adapter:
    """The experts module of transformers' Qwen3-MoE and Mixtral with one of its implementations.

    Routing weights are in the layer's dtype, as its router gives them. Quantized weights are
    dequantized for it: on a CPU it runs the model unquantized.
    """

    def adapter(layer: RandomLayer) -> Run | None:
        try:
            from transformers.models.qwen3_moe.configuration_qwen3_moe import Qwen3MoeConfig
            from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts
        except ImportError:
            return None
        config = layer.moe_config
        model_config = Qwen3MoeConfig(
            num_experts=config.num_experts,
            num_experts_per_tok=config.experts_per_token,
            hidden_size=config.hidden_dim,
            moe_intermediate_size=config.intermediate_size_per_partition,
            hidden_act="silu",
        )
        model_config._experts_implementation = implementation
        with torch.device("meta"):
            experts = Qwen3MoeExperts(model_config)
        w13, w2 = _dequantized(layer)
        experts.gate_up_proj = torch.nn.Parameter(w13, requires_grad=False)
        experts.down_proj = torch.nn.Parameter(w2, requires_grad=False)
        per_pair = w13[0].nbytes

        def run(tokens: RandomLayer) -> torch.Tensor:
            if implementation == "batched_mm" and per_pair * tokens.topk_ids.numel() > (
                GATHERED_BYTES
            ):
                raise MemoryError(f"{implementation} would copy more than {GATHERED_BYTES} bytes")
            weights = tokens.topk_weights.to(tokens.hidden_states.dtype)
            output: torch.Tensor = experts(tokens.hidden_states, tokens.topk_ids.long(), weights)
            return output

        return run

    return adapter


PEERS: Mapping[str, Callable[[RandomLayer], Run | None]] = {
    "moe_rules": ours(dequantize=False),
    "moe_rules dequantized": ours(dequantize=True),
    "moe_rules unpacked": ours_unpacked,
    "transformers eager": transformers("eager"),
    "transformers batched_mm": transformers("batched_mm"),
    "transformers grouped_mm": transformers("grouped_mm"),
}
"""By name."""

OURS = ("moe_rules", "moe_rules dequantized", "moe_rules unpacked")
"""Which of them are ours."""
