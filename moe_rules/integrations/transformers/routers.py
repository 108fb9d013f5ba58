"""Routers that choose experts in one launch, where they compute what that does.

A router says in code how it chooses: by which logits, with which softmax for weights. So the code
is asked: it and :mod:`moe_kernels.ops.router` compute the same numbers, or they do not. Where
they do, a layer on a GPU has one launch in the place of some five small ones.
"""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from moe_rules.integrations.transformers.front import Front, make_plain, plain_class, put_in_front
from moe_rules.integrations.transformers.layer import is_experts
from moe_rules.integrations.transformers.saying import NAME, say

_METHOD = "_moe_rules_routing"
_CONFIG = "_moe_rules_config"
"""The attributes in which a router has how it chooses, and the configuration of its experts."""

_OF_ANY_MODULE = vars(nn.Module()).keys()
_PLAIN = (bool, int, float, str, torch.dtype, type(None))
"""What an attribute of a router may be."""

_SAMPLES = 128
"""So many tokens that torch multiplies their logits here, too, as the router itself does."""
_LARGE = 32.0
"""Times which half of them are: a router may bound its logits."""


@dataclass(frozen=True)
class Method:
    """How a router with weights on ``device``, in ``dtype``, chooses experts for ``ndim``-D tokens.

    in_float32: whether it multiplies so. renormalize: whether weights are the softmax over the
    chosen experts; None: it chooses otherwise, and itself. logits_dtype, weights_dtype: of what it
    returns.
    """

    device: torch.device
    dtype: torch.dtype
    ndim: int
    renormalize: bool | None = None
    in_float32: bool = False
    logits_dtype: torch.dtype = torch.float32
    weights_dtype: torch.dtype = torch.float32

    def holds_for(self, weight: torch.Tensor) -> bool:
        """Whether the weight is still where and what it was."""
        return weight.device == self.device and weight.dtype == self.dtype


class Choosing(Front):
    """In front of the class of a router beside experts that have this implementation."""

    _moe_rules_config: Any
    weight: torch.Tensor
    _kept = (_METHOD, _CONFIG)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """(router_logits [M, E], top_k_weights and top_k_index [M, topk]), as the module's own."""
        if not self.is_asked():
            let_choose(self)
            return self.forward(*args, **kwargs)
        if len(args) != 1 or kwargs or not self._may_choose(args[0]):
            return super().forward(*args, **kwargs)
        # torch.compile may trace twice, and has to come by the same way.
        if torch.compiler.is_compiling() or _known(self) is None:
            self.when_traced(_find, args[0].ndim)
        found: Method = getattr(self, _METHOD)
        if found.renormalize is None or (args[0].dtype, args[0].ndim) != (found.dtype, found.ndim):
            return super().forward(*args, **kwargs)
        return _chosen(self, args[0], found)

    def is_asked(self) -> bool:
        """Whether the experts beside it still have this implementation."""
        asked: bool = self._moe_rules_config._experts_implementation == NAME
        return asked

    def _may_choose(self, x: torch.Tensor) -> bool:
        """Whether tokens ``x`` are where there is a kernel, which has no backward, nor casts."""
        if self.training or not has_kernel(x.device) or x.device != self.weight.device:
            return False
        if torch.is_autocast_enabled(x.device.type):
            return False
        multiplied = x, self.weight, getattr(self, "bias", None)
        return not (
            torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in multiplied)
        )


def make_choosing(parent: Any) -> None:
    """Put :class:`Choosing` in front of routers beside experts in ``parent``, if any are."""
    children: list[Any] = list(parent.children())
    for experts in children:
        if is_experts(experts) and experts.config._experts_implementation == NAME:
            for child in filter(_is_router, children):
                put_in_front(Choosing, child)
                child.__dict__[_CONFIG] = experts.config


def has_kernel(device: torch.device) -> bool:
    """Whether the kernel that chooses runs on ``device``."""
    return device.type in ("cuda", "xpu")


def let_choose(module: nn.Module) -> None:
    """Make a router what it was before anything here had to do with it."""
    for name in Choosing._kept:
        module.__dict__.pop(name, None)
    make_plain(module)


def _is_router(module: nn.Module) -> bool:
    """Whether a module has what routers have here, and otherwise what changes by being set alone.

    Whether a configuration, another module or a tensor, as a bias of scores, has changed since the
    router was asked, nobody would know.
    """
    names = {name for name, _ in itertools.chain(module.named_parameters(), module.named_buffers())}
    if not hasattr(module, "top_k") or "weight" not in names or not names <= {"weight", "bias"}:
        return False
    own = vars(module).keys() - _OF_ANY_MODULE - set(Choosing._kept)
    return not module._modules and all(isinstance(vars(module)[name], _PLAIN) for name in own)


def _known(module: Any) -> Method | None:
    """How ``module`` chooses, if that was found out for its weight as it is."""
    found: Method | None = getattr(module, _METHOD, None)
    return found if found is not None and found.holds_for(module.weight) else None


def _find(module: Any, ndim: int) -> None:
    """Find out how ``module`` chooses, by what it computes of samples, unless that is known."""
    if _known(module) is not None:
        return
    weight = module.weight
    found = of_samples = Method(weight.device, weight.dtype, max(ndim, 2))
    generator = torch.Generator("cpu").manual_seed(0)
    x = torch.randn(
        _SAMPLES, weight.shape[-1], generator=generator, dtype=torch.float32, device="cpu"
    )
    x[::2] *= _LARGE
    x = x.to(weight.device, weight.dtype)[(None,) * (of_samples.ndim - 2)]
    with torch.no_grad():
        try:
            sample = _with_some_bias(module, generator)
            own = plain_class(module).forward(sample, x)
            logits, weights, _ = own
            for renormalize, in_float32 in itertools.product((True, False), (False, True)):
                candidate = replace(
                    of_samples,
                    renormalize=renormalize,
                    in_float32=in_float32,
                    logits_dtype=logits.dtype,
                    weights_dtype=weights.dtype,
                )
                if _same(own, _chosen(sample, x, candidate)):
                    found = candidate
                    break
        except Exception:  # it takes or returns something else
            pass
    module.__dict__[_METHOD] = found
    name = type(module).__name__
    how = "itself" if found.renormalize is None else "in one launch"
    say(logging.INFO, f"{NAME}: {name} chooses experts {how}")


def _with_some_bias(module: Any, generator: torch.Generator) -> Any:
    """A plain router as ``module``; a bias is one that shows what it is added to: zeros do not."""
    sample: Any = object.__new__(plain_class(module))
    sample.__dict__.update(module.__dict__)
    for kind in ("_parameters", "_buffers"):
        tensors = sample.__dict__[kind]
        if (bias := tensors.get("bias")) is not None:
            some = torch.randn(
                bias.shape, generator=generator, dtype=torch.float32, device="cpu"
            ).to(bias.device, bias.dtype)
            sample.__dict__[kind] = {**tensors, "bias": some}
    return sample


def _chosen(
    module: Any, x: torch.Tensor, method: Method
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What a router returns that chooses by ``method``."""
    from moe_kernels.ops.router import route_tokens  # needs Triton

    x, weight, bias = x.reshape(-1, x.shape[-1]), module.weight, getattr(module, "bias", None)
    if method.in_float32:
        x, weight, bias = x.float(), weight.float(), None if bias is None else bias.float()
    renormalize, dtypes = bool(method.renormalize), (method.weights_dtype, torch.int64)
    logits, *chosen = route_tokens(x, weight, bias, module.top_k, renormalize, *dtypes)
    return logits.to(method.logits_dtype), chosen[0], chosen[1]


def _same(own: Any, computed: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> bool:
    """Whether a router's logits are bit for bit those, and its choice and weights as good as.

    Of equal logits it may choose another, and of those too small to have a weight. One by one
    weights may be rounded otherwise; all together that is neither more nor less, as a factor is.
    """
    (logits, weights, ids), (these_logits, these_weights, these_ids) = own, computed
    if not torch.equal(logits, these_logits) or ids.dtype != these_ids.dtype:
        return False
    if not weights.shape == ids.shape == these_ids.shape:
        return False
    # The softmax of large logits is that exact in float32.
    nothing, step = 64 * torch.finfo(torch.float32).eps, torch.finfo(weights.dtype).eps
    weights, these_weights = weights.double(), these_weights.double()
    of_equal = logits.gather(1, ids) == logits.gather(1, these_ids)
    return bool(
        (of_equal | (weights.maximum(these_weights) < nothing)).all()
        and torch.allclose(weights, these_weights, rtol=4 * step, atol=nothing)
        and torch.allclose(weights.mean(), these_weights.mean(), rtol=step / 8, atol=nothing)
    )
