"""The MoE layer in wide arithmetic, and how far a kernel may be from it.

For quantized schemes the reference does what the scheme says a kernel does, and no more: weights
are dequantized exactly, the inputs of both GEMMs are rounded to the scheme's grid. Everything else
is wide. So the distance to it is a kernel's own error, not the scheme's.

Where activations are quantized, the result of the first GEMM and of the activation count as stored
in the layer's dtype, as in vLLM: which FP8 number a value becomes depends on it.
"""

from __future__ import annotations

import torch

from moe_kernels.activation import ActivationParameters, activation_form, apply_activation
from moe_kernels.quant_config import FusedMoEQuantConfig
from moe_kernels.quantization.schemes import QuantizedWeight, dequantize_weight, fake_quantize
from moe_kernels.routing import Routing

_BOUNDS = {torch.bfloat16: 8e-3, torch.float16: 1e-3, torch.float32: 1e-5}
_ACTIVATION_BOUNDS = {
    "int8": 5e-3,
    "fp8": 1.5e-2,
    "mxfp8": 1.5e-2,
    "mxfp6_e2m3": 1.5e-2,
    "mxfp6_e3m2": 2e-2,
    "mxfp4": 4e-2,
    "nvfp4": 4e-2,
}


def error_bound(dtype: torch.dtype, quant_config: FusedMoEQuantConfig, activations: bool) -> float:
    """The largest :func:`relative_error` that a correct kernel may have.

    Unquantized activations: a few roundings to the layer's dtype (2^-9 relative for bf16, 2^-12
    for fp16, 2^-24 for fp32), which average over the sums. Quantized ones (``activations``): the
    same, and now and then a value in the middle between two numbers of the format (6 to 12 % apart
    in FP8, up to 50 % in FP4) becomes the other one, or a scale rounds the other way and all its
    group with it. Leaving out the quantization of one GEMM's input is a larger error.
    """
    bound = _BOUNDS[dtype]
    if activations and quant_config.activation_format is not None:
        bound = max(bound, _ACTIVATION_BOUNDS[quant_config.activation_format])
    return bound


def relative_error(output: torch.Tensor, expected: torch.Tensor) -> float:
    """``|output - expected| / |expected|`` in the Frobenius norm; NaN counts as infinite."""
    wide = output.to(expected.dtype)
    if not bool(torch.isfinite(wide).all()):
        return float("inf")
    norm = expected.norm()
    difference = (wide - expected).norm()
    return float(difference / norm) if norm > 0 else float(difference)


def reference_moe(
    hidden_states: torch.Tensor,
    w13: torch.Tensor,
    w2: torch.Tensor,
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
    *,
    activation: str,
    parameters: ActivationParameters,
    quant_config: FusedMoEQuantConfig,
    expert_map: torch.Tensor | None = None,
    apply_router_weight_on_input: bool = False,
    quantize_activations: bool = True,
    dtype: torch.dtype = torch.float64,
) -> torch.Tensor:
    """The layer's output, [M, H] in ``dtype``.

    Arguments as in :meth:`moe_kernels.modular_kernel.FusedMoEKernel.apply`, weights in the format
    of :mod:`moe_kernels.quantization.schemes`. ``quantize_activations`` False: for kernels that
    leave activations as they are. Slow, and reads the routing on the host.
    """
    num_experts, n13, _ = w13.shape
    hidden = hidden_states.shape[1]
    intermediate_size = n13 // 2 if activation_form(activation).gated else n13
    activation_format = quant_config.activation_format if quantize_activations else None
    group_shape = quant_config.activation_group_shape
    key = quant_config.weight_key

    def weight(name: str, w: torch.Tensor, expert: int) -> torch.Tensor:
        if key is None:
            return w[expert].to(dtype)
        scale, zero_point, scale_2 = (
            None if tensor is None else tensor[expert]
            for tensor in (getattr(quant_config, name + s) for s in ("_scale", "_zp", "_scale_2"))
        )
        assert scale is not None
        return dequantize_weight(QuantizedWeight(w[expert], scale, zero_point, scale_2), key, dtype)

    def as_quantized(
        x: torch.Tensor, scale: torch.Tensor | None, scale_2: torch.Tensor | None
    ) -> torch.Tensor:
        if activation_format is None or group_shape is None:
            return x.to(dtype)
        return fake_quantize(x, activation_format, group_shape, scale, scale_2, dtype)

    def stored(x: torch.Tensor) -> torch.Tensor:
        return x if activation_format is None else x.to(hidden_states.dtype).to(dtype)

    global_num_experts = num_experts if expert_map is None else expert_map.numel()
    ids = Routing(topk_ids, global_num_experts, expert_map).local_experts()
    x = hidden_states
    if apply_router_weight_on_input:
        x = x * topk_weights.to(x.dtype)
    x = torch.where((ids >= 0).any(1, keepdim=True), x, 0.0)
    x = as_quantized(x, quant_config.a13_scale, quant_config.a13_scale_2)

    hits = [(ids == expert).nonzero(as_tuple=True) for expert in range(num_experts)]
    intermediates = []
    for expert, (tokens, _) in enumerate(hits):
        if tokens.numel() == 0:
            intermediates.append(x.new_empty(0, intermediate_size))
            continue
        y = x[tokens] @ weight("w13", w13, expert).T
        if quant_config.w13_bias is not None:
            y = y + quant_config.w13_bias[expert].to(dtype)
        intermediates.append(stored(apply_activation(stored(y), activation, parameters)))
    # A dynamic per-tensor scale is one over all experts.
    sizes = [len(part) for part in intermediates]
    intermediate = as_quantized(
        torch.cat(intermediates), quant_config.a2_scale, quant_config.a2_scale_2
    )
    parts = torch.split(intermediate, sizes)

    output = torch.zeros(len(x), hidden, dtype=dtype, device=x.device)
    for expert, (tokens, slots) in enumerate(hits):
        if tokens.numel() == 0:
            continue
        y = parts[expert] @ weight("w2", w2, expert).T
        if quant_config.w2_bias is not None:
            y = y + quant_config.w2_bias[expert].to(dtype)
        if not apply_router_weight_on_input:
            y = y * topk_weights[tokens, slots, None].to(dtype)
        output.index_add_(0, tokens, y)
    return output
