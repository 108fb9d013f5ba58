"""An experts module of transformers, as kernels here take a layer.

A module is one of a class that transformers' ``use_experts_implementation`` decorates: weights of
all experts in one parameter, and attributes that say in which layout.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from moe_rules.integrations.transformers.activations import with_activation
from moe_rules.vocabulary.layer import FusedMoEConfig, dtype_name


class NotServedError(ValueError):
    """No kernel here computes a module; the message says why."""


class LayerTensors(NamedTuple):
    """The tensors of a module: w13 [E, 2I, H] ([E, I, H] without gate), w2 [E, H, I], and others.

    They are the module's own, or views of them where it has the last two dimensions exchanged.
    """

    w13: torch.Tensor
    w2: torch.Tensor
    w13_bias: torch.Tensor | None
    w2_bias: torch.Tensor | None
    w13_scale: torch.Tensor | None
    w2_scale: torch.Tensor | None


def is_experts(module: nn.Module) -> bool:
    """Whether transformers lets functions compute ``module``."""
    return all(hasattr(module, name) for name in ("is_transposed", "has_gate", "has_bias"))


def up_name(module: Any) -> str:
    """The parameter with the weights of the first GEMM."""
    return "gate_up_proj" if module.has_gate else "up_proj"


def stored(module: Any, name: str) -> torch.Tensor:
    """A parameter as it is, also where the module would give back what it has let go.

    Or what stands in a parameter's place, as with adapters.
    """
    own: torch.Tensor | None = module._parameters.get(name)
    return getattr(module, name) if own is None else own


def gemm_weights(module: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """w13 and w2 of a :class:`LayerTensors`, which is all that a call needs."""
    w13, w2 = stored(module, up_name(module)), stored(module, "down_proj")
    return (w13.transpose(1, 2), w2.transpose(1, 2)) if module.is_transposed else (w13, w2)


def beside_weights(module: Any) -> tuple[str, str, str, str]:
    """The names of the biases and scales of a :class:`LayerTensors`, of which it may have none."""
    both = (up_name(module), "down_proj")
    up, down, up_scale, down_scale = (f"{w}_{part}" for part in ("bias", "scale_inv") for w in both)
    return up, down, up_scale, down_scale


def layer_tensors(module: Any) -> LayerTensors:
    """See :class:`LayerTensors`."""
    up, down, up_scale, down_scale = (getattr(module, n, None) for n in beside_weights(module))
    if not module.has_bias:  # transformers adds none then, whatever has the name of one
        up = down = None
    return LayerTensors(*gemm_weights(module), up, down, up_scale, down_scale)


def layer_config(module: Any, top_k: int, dtype: torch.dtype) -> FusedMoEConfig:
    """What ``module`` computes in ``dtype`` for tokens with ``top_k`` experts each.

    Its experts are all there are: transformers numbers those of a rank from 0 on, and others
    beyond them. Raises NotServedError for what no kernel here takes.
    """
    tensors = layer_tensors(module)
    _check_tensors(module, tensors)
    w13, w2, w13_bias, *_ = tensors
    try:
        in_dtype = dtype_name(dtype)
    except ValueError as error:
        raise NotServedError(str(error)) from None
    layer = FusedMoEConfig(
        num_experts=w13.shape[0],
        experts_per_token=top_k,
        hidden_dim=w13.shape[2],
        intermediate_size=w2.shape[2],
        routing_method="Unspecified",
        in_dtype=in_dtype,
        has_bias=w13_bias is not None,
    )
    try:
        return with_activation(module, layer, w13.device)
    except ValueError as error:
        raise NotServedError(str(error)) from None


def _check_tensors(module: Any, tensors: LayerTensors) -> None:
    """Raise NotServedError for weights that come and go, are not all here, or are not alike."""
    there = [x for x in tensors if x is not None]
    if any(x.device.type == "meta" for x in there):
        raise NotServedError("its weights are on the meta device")
    for x in there:
        if type(x.data) is not torch.Tensor:
            raise NotServedError(f"its weights are of the class {type(x.data).__name__}")
    if getattr(getattr(module, "_hf_hook", None), "offload", False):
        raise NotServedError("its weights are offloaded, and come only for each call")
    devices = dict.fromkeys(str(x.device) for x in there)
    if len(devices) > 1:
        raise NotServedError(f"its weights are on several devices ({', '.join(devices)})")
    if tensors.w13.dtype != tensors.w2.dtype:
        both = f"{tensors.w13.dtype}, {tensors.w2.dtype}"
        raise NotServedError(f"its weights are of two dtypes ({both})")
