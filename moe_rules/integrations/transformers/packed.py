"""Experts modules whose weights may be there only as a kernel takes them.

Conversion for CPUs packs weights, and the module's own are let go: its parameters then only stand
for them (:func:`moe_kernels.cpu.packed_weights.stand_in`). What moves, casts, loads or copies
parameters gets their values back first, and what saves them sees these.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from moe_kernels.layouts import LayerWeights
from torch import nn

from moe_rules.integrations.transformers.layer import stored, up_name
from moe_rules.integrations.transformers.saying import NAME

SERVING = "_moe_rules_serving"
"""The attribute in which a module has what serves it."""
_PACKED = "_moe_rules_packed"


class Packable(nn.Module):
    """In front of the class of a module whose weights :func:`let_go` may take."""

    config: Any
    _plain_class: type[nn.Module]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's own; what is not ours gets the module as it was."""
        if self.config._experts_implementation == NAME:
            return super().forward(*args, **kwargs)
        release(self)
        return self.forward(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """Whoever reads a weight gets all of them back; kernels do not read it so."""
        if _PACKED in self.__dict__ and name in _parameters(self):
            restore(self)
        return super().__getattr__(name)

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        """Moves and casts parameters; then something else may serve the module."""
        restore(self)
        self.__dict__.pop(SERVING, None)
        return super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Loads parameters, of which a kernel may have copies in its own form: scales."""
        restore(self)
        self.__dict__.pop(SERVING, None)
        super()._load_from_state_dict(*args, **kwargs)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if _PACKED in self.__dict__:
            for name in _parameters(self):
                destination[prefix + name] = _values(self, name)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copies and pickles are plain."""
        release(self)
        return self.__reduce_ex__(protocol)


def make_packable(module: Any) -> None:
    """Put :class:`Packable` in front of the class of ``module``; twice is as once."""
    if not isinstance(module, Packable):
        module.__class__ = _packable_class(type(module))  # type: ignore[arg-type]


def can_let_go(module: nn.Module) -> bool:
    """Whether the weights may be packed: not where others stand in their place for one call.

    So it is with adapters, and with the local part of what is spread over ranks.
    """
    own = [module._parameters.get(name) for name in _parameters(module)]
    return isinstance(module, Packable) and all(isinstance(w, nn.Parameter) for w in own)


def let_go(module: nn.Module, converted: LayerWeights) -> None:
    """Keep only ``converted`` of the weights of ``module``: packed, or as they were by rows."""
    for name, weight in zip(_parameters(module), (converted.w13, converted.w2), strict=True):
        stored(module, name).data = _as_stored(module, weight)
    if converted.packed is not None:
        module.__dict__[_PACKED] = converted.packed


def restore(module: nn.Module) -> None:
    """Give ``module`` its weights back, bit for bit; one that has them is left alone."""
    if _PACKED in module.__dict__:
        with torch.no_grad(), torch.inference_mode(False):
            for name in _parameters(module):
                stored(module, name).data = _values(module, name)
        del module.__dict__[_PACKED]
        module.__dict__.pop(SERVING, None)  # it holds them, too


def release(module: Any) -> None:
    """Make ``module`` what it was before anything here had to do with it."""
    restore(module)
    module.__dict__.pop(SERVING, None)
    plain = getattr(module, "_plain_class", None)
    if plain is not None:
        module.__class__ = plain


def _parameters(module: nn.Module) -> tuple[str, str]:
    return up_name(module), "down_proj"


def _values(module: nn.Module, name: str) -> torch.Tensor:
    """The weights of one GEMM as the module had them."""
    packed, parameter = module.__dict__[_PACKED], stored(module, name)
    product = packed.w2 if name == "down_proj" else packed.w13
    values = torch.empty(parameter.shape, dtype=parameter.dtype, device=parameter.device)
    for expert, weight in enumerate(_as_stored(module, values)):
        weight.copy_(product.weight(expert))
    return values


def _as_stored(module: Any, w: torch.Tensor) -> torch.Tensor:
    """From [E, N, K] to the layout of the module's parameters, and back."""
    return w.transpose(1, 2) if module.is_transposed else w


@functools.cache
def _packable_class(cls: Any) -> Any:
    names = {"_plain_class": cls, "__module__": cls.__module__, "__doc__": cls.__doc__}
    return type(cls.__name__, (Packable, cls), names)
