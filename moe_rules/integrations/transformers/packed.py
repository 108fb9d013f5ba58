"""Experts modules whose weights may be there only as a kernel takes them.

Conversion for CPUs packs weights, and the module's own are let go: its parameters then only stand
for them (:func:`moe_kernels.cpu.packed_weights.stand_in`). What moves, casts, loads or copies
parameters gets their values back first, and what saves them sees these.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any, NamedTuple

import torch
from moe_kernels.cpu.packed_weights import PackedProduct, stands_for_packed
from moe_kernels.layouts import LayerWeights
from torch import nn
from torch.utils.weak import WeakTensorKeyDictionary

from moe_rules.integrations.transformers.front import Front, make_plain, put_in_front
from moe_rules.integrations.transformers.layer import stored, up_name
from moe_rules.integrations.transformers.saying import NAME

SERVING = "_moe_rules_serving"
"""The attribute in which a module has what serves it."""
CONVERTING = threading.RLock()
"""Held by the one thread that converts weights or gives them back."""


class _LetGo(NamedTuple):
    """What there is of a parameter's values, and the module that packed them."""

    product: PackedProduct
    packer: weakref.ref[nn.Module]


_let_go = WeakTensorKeyDictionary()
"""By parameter: modules may share some, and whichever asks gets its values."""
_shared = WeakTensorKeyDictionary()
"""Parameters that another module asked for than the one that had packed them: not done again."""


class Packable(Front):
    """In front of the class of a module whose weights :func:`let_go` may take."""

    config: Any
    _kept = (SERVING,)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's own; what is not ours gets the module as it was."""
        if self.config._experts_implementation == NAME:
            return super().forward(*args, **kwargs)
        release(self)
        return self.forward(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """Whoever reads a weight gets all of them back; kernels do not read it so."""
        own = self.__dict__["_parameters"].get(name)
        if own is not None and stands_for_packed(own):
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
        with CONVERTING:
            for name in _parameters(self):
                let_go = _values_of(self, name)
                if let_go is not None:
                    destination[prefix + name] = _values(self, name, let_go.product)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copies and pickles have the weights."""
        restore(self)
        return super().__reduce_ex__(protocol)


def make_packable(module: Any) -> None:
    """Put :class:`Packable` in front of the class of ``module``; twice is as once."""
    put_in_front(Packable, module)


def can_let_go(module: nn.Module) -> bool:
    """Whether the weights may be packed: not where others stand in their place for one call.

    So it is with adapters, and with the local part of what is spread over ranks.
    """
    own = [module._parameters.get(name) for name in _parameters(module)]
    return isinstance(module, Packable) and all(
        isinstance(w, nn.Parameter) and w not in _shared for w in own
    )


def lay_by_rows(module: nn.Module) -> None:
    """Let rows of the weights of ``module`` be contiguous, whatever its layout; values stay.

    One parameter after the other, so that only one is there twice.
    """
    for name in _parameters(module):
        parameter = stored(module, name)
        rows = _as_stored(module, parameter.data).contiguous()
        parameter.data = _as_stored(module, rows)


def let_go(module: nn.Module, converted: LayerWeights) -> None:
    """Keep of the weights of ``module`` only what ``converted`` has packed, if it has."""
    if converted.packed is None:
        return
    weights = converted.w13, converted.w2
    products = converted.packed.w13, converted.packed.w2
    for name, weight, product in zip(_parameters(module), weights, products, strict=True):
        if product is not None:
            parameter = stored(module, name)
            parameter.data = _as_stored(module, weight)
            _let_go[parameter] = _LetGo(product, weakref.ref(module))


def restore(module: nn.Module) -> None:
    """Give ``module`` its weights back, bit for bit; one that has them is left alone."""
    with CONVERTING, torch.no_grad(), torch.inference_mode(False):
        for name in _parameters(module):
            let_go = _values_of(module, name)
            if let_go is None:
                continue
            parameter, packer = stored(module, name), let_go.packer()
            if packer is not module:
                _shared[parameter] = True
            parameter.data = _values(module, name, let_go.product)
            del _let_go[parameter]
            for each in (module, packer):
                if each is not None:
                    each.__dict__.pop(SERVING, None)  # it holds them, too


def release(module: Any) -> None:
    """Make ``module`` what it was before anything here had to do with it."""
    restore(module)
    module.__dict__.pop(SERVING, None)
    make_plain(module)


def _parameters(module: nn.Module) -> tuple[str, str]:
    return up_name(module), "down_proj"


def _values_of(module: nn.Module, name: str) -> _LetGo | None:
    """Where the values of a parameter are, if it only stands for them.

    It does not any more where it was given others (``parameter.data = ...``).
    """
    parameter = module._parameters.get(name)
    if parameter is None or not stands_for_packed(parameter):
        return None
    found: _LetGo | None = _let_go.get(parameter)  # type: ignore[no-untyped-call]
    return found


def _values(module: nn.Module, name: str, product: Any) -> torch.Tensor:
    """The weights of one GEMM as the module had them."""
    parameter = stored(module, name)
    values = torch.empty(parameter.shape, dtype=parameter.dtype, device=parameter.device)
    for expert, weight in enumerate(_as_stored(module, values)):
        weight.copy_(product.weight(expert))
    return values


def _as_stored(module: Any, w: torch.Tensor) -> torch.Tensor:
    """From [E, N, K] to the layout of the module's parameters, and back."""
    return w.transpose(1, 2) if module.is_transposed else w
