"""What each activation computes, its constants, and a torch implementation for any device.

All activations reduce to a few forms: a gated one takes 2I columns and gives I, ``*_no_mul``
takes I and gives I. The Triton implementation is :mod:`moe_kernels.ops.activation`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812

from moe_kernels.quant_config import FusedMoEQuantConfig
from moe_rules.vocabulary.facts import ACTIVATIONS
from moe_rules.vocabulary.layer import FusedMoEConfig


class ActivationParameters(NamedTuple):
    """The constants of an activation; see :func:`activation_parameters`."""

    limit: float | None = None
    alpha: float = 1.0
    beta: float = 0.0
    situ_beta: float = 1.0
    situ_linear_beta: float | None = None


class ActivationForm(NamedTuple):
    """How an activation is computed: which function, with a gate or not, columns interleaved."""

    form: str
    gated: bool
    interleaved: bool


_FUNCTIONS = {
    "swigluoai": "swiglu",
    "swigluoai_uninterleave": "swiglu",
    "silu": "swiglu",
}
"""Of activations, without "_no_mul", whose form has another name."""


def _form(activation: str) -> ActivationForm:
    name = activation.removesuffix("_no_mul")
    return ActivationForm(_FUNCTIONS.get(name, name), name == activation, name == "swigluoai")


_FORMS = {activation: _form(activation) for activation in ACTIVATIONS}


def activation_form(activation: str) -> ActivationForm:
    """The form of ``activation``. Raises ValueError for a name not in ACTIVATIONS."""
    form = _FORMS.get(activation)
    if form is None:
        raise ValueError(
            f"unknown activation {activation!r}; expected one of {', '.join(ACTIVATIONS)}"
        )
    return form


def activation_parameters(
    activation: str, moe_config: FusedMoEConfig, quant_config: FusedMoEQuantConfig
) -> ActivationParameters:
    """The constants of ``activation`` for one layer.

    The quantization config's SwiGLU constants come first, then the layer's, then the default of
    the activation: limit 7 and alpha 1.702 for swigluoai (gpt-oss), limit 7 for swiglustep, no
    limit for silu. A limit of silu and a linear beta of situ that are not above 0 are none: so
    vLLM's Triton code (``swiglu_limit_func``) and its SiTU operator take them. Raises ValueError
    where an activation has no default and none is given: swigluoai_uninterleave needs a limit,
    situ its beta.
    """

    def given(name: str, default: float | None = None) -> float | None:
        for config in (quant_config, moe_config):
            value = getattr(config, name)
            if value is not None:
                return float(value)
        return default

    if activation == "silu":
        limit = given("swiglu_limit")
        return ActivationParameters(limit=limit if limit is not None and limit > 0 else None)
    if activation == "swigluoai":
        alpha = given("swiglu_alpha", 1.702)
        assert alpha is not None
        return ActivationParameters(limit=given("swiglu_limit", 7.0), alpha=alpha, beta=1.0)
    if activation == "swigluoai_uninterleave":
        limit, alpha, beta = (
            given("swiglu_limit"),
            given("swiglu_alpha", 1.0),
            given("swiglu_beta", 0.0),
        )
        if limit is None:
            raise ValueError("activation swigluoai_uninterleave needs swiglu_limit, got None")
        assert alpha is not None
        assert beta is not None
        return ActivationParameters(limit=limit, alpha=alpha, beta=beta)
    if activation == "swiglustep":
        return ActivationParameters(limit=given("swiglu_limit", 7.0))
    if activation == "situ":
        if moe_config.activation_situ_beta is None:
            raise ValueError("activation situ needs activation_situ_beta, got None")
        linear = moe_config.activation_situ_linear_beta
        return ActivationParameters(
            situ_beta=moe_config.activation_situ_beta,
            situ_linear_beta=linear if linear is not None and linear > 0 else None,
        )
    return ActivationParameters()


def apply_activation(
    x: torch.Tensor, activation: str, parameters: ActivationParameters
) -> torch.Tensor:
    """Apply ``activation`` to the last dimension of ``x``; computed in the dtype of ``x``.

    x: [..., 2I] for a gated activation (gate in the first half and up in the second;
    swigluoai: gate in the even and up in the odd columns), [..., I] for ``*_no_mul``.
    Returns [..., I].
    """
    form, gated, interleaved = activation_form(activation)
    limit, alpha, beta, situ_beta, situ_linear_beta = parameters
    if not gated:
        gate, up = x, None
    elif interleaved:
        gate, up = x[..., ::2], x[..., 1::2]
    else:
        gate, up = x.chunk(2, dim=-1)
    if form == "swiglustep":
        gate = F.silu(gate)
    if limit is not None:
        gate = gate.clamp(max=limit)
        up = None if up is None else up.clamp(min=-limit, max=limit)
    if form == "swiglu":
        # silu() is one pass in torch; the general form is three.
        gate = F.silu(gate) if alpha == 1.0 else gate * torch.sigmoid(alpha * gate)
        up = up + beta if up is not None and beta != 0.0 else up
    elif form == "situ":
        gate = situ_beta * torch.tanh(gate / situ_beta) * torch.sigmoid(gate)
        if up is not None and situ_linear_beta is not None:
            up = situ_linear_beta * torch.tanh(up / situ_linear_beta)
    elif form == "gelu":
        gate = F.gelu(gate)
    elif form == "gelu_tanh":
        gate = F.gelu(gate, approximate="tanh")
    elif form == "relu2":
        gate = torch.relu(gate).square()
    return gate if up is None else gate * up
