"""Which activation an experts module computes.

A module says so in code: its ``act_fn``, or a gate of its own with limits and constants among its
attributes. So the code is asked: it and ours compute the same numbers, or they do not.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from moe_kernels.activation import activation_parameters, apply_activation
from moe_kernels.quant_config import FusedMoEQuantConfig

from moe_rules.vocabulary.facts import ACTIVATIONS
from moe_rules.vocabulary.layer import FusedMoEConfig

_CONSTANTS = {
    "silu": ("swiglu_limit",),
    "swigluoai": ("swiglu_limit", "swiglu_alpha"),
    "swigluoai_uninterleave": ("swiglu_limit", "swiglu_alpha", "swiglu_beta"),
    "swiglustep": ("swiglu_limit",),
    "situ": ("activation_situ_beta", "activation_situ_linear_beta"),
}
"""The constants that activations have, as a FusedMoEConfig calls them."""

_NAMES = {
    "swiglu_limit": ("swiglu_limit", "limit"),
    "swiglu_alpha": ("swiglu_alpha", "alpha"),
    "swiglu_beta": (),
    "activation_situ_beta": ("gate_softcap", "mlp_gate_softcap"),
    "activation_situ_linear_beta": ("up_softcap", "mlp_up_softcap"),
}
"""What modules of transformers and their configurations call these."""

_IN_CODE = {"swiglu_beta": (1.0,)}
"""Values that no attribute has, only code."""

_UNQUANTIZED = FusedMoEQuantConfig()

_SAMPLES, _COLUMNS = 512, 8
_MAGNITUDES = (0.1, 1.0, 8.0, 64.0)
_TOLERANCE = 1e-5


def with_activation(module: Any, layer: FusedMoEConfig, device: torch.device) -> FusedMoEConfig:
    """``layer`` with the activation that ``module`` computes, and its constants.

    ``device``: where the module computes. Raises ValueError where it is none of ACTIVATIONS.
    """
    x = _samples(device)
    wanted = module._apply_gate(x) if module.has_gate else module.act_fn(x)
    for fields in _candidates(module):
        candidate = dataclasses.replace(layer, **fields)
        try:
            parameters = activation_parameters(candidate.activation, candidate, _UNQUANTIZED)
        except ValueError:  # it has no value for a constant that it needs
            continue
        computed = apply_activation(x, candidate.activation, parameters)
        if computed.shape == wanted.shape and torch.allclose(
            computed, wanted, rtol=_TOLERANCE, atol=_TOLERANCE
        ):
            return candidate
    gate = "_apply_gate" if module.has_gate else "act_fn"
    raise ValueError(f"no activation here computes what its {gate} does")


def _samples(device: torch.device) -> torch.Tensor:
    """Inputs [_SAMPLES, _COLUMNS] of an activation, float32, small and beyond any limit."""
    generator = torch.Generator("cpu").manual_seed(0)
    x = torch.randn(_SAMPLES, _COLUMNS, generator=generator, dtype=torch.float32, device="cpu")
    for rows, magnitude in zip(x.chunk(len(_MAGNITUDES)), _MAGNITUDES, strict=True):
        rows *= magnitude
    return x.to(device)


def _candidates(module: Any) -> Iterator[dict[str, Any]]:
    """Fields of a FusedMoEConfig that may describe the module's activation.

    With constants first: one so large that no sample comes near it is one all the same.
    """
    for activation in ACTIVATIONS:
        if activation.endswith("_no_mul") == module.has_gate:
            continue
        names = _CONSTANTS.get(activation, ())
        for values in itertools.product(*(_values(module, name) for name in names)):
            yield {"activation": activation, **dict(zip(names, values, strict=True))}


def _values(module: Any, constant: str) -> list[float | None]:
    """What a constant may be in ``module``, None last: it has none."""
    places = [module, getattr(module, "config", None)]
    found = [getattr(place, name, None) for name in _NAMES[constant] for place in places]
    numbers = [float(x) for x in found if isinstance(x, (int, float)) and math.isfinite(x)]
    return [*dict.fromkeys([*numbers, *_IN_CODE.get(constant, ())]), None]
