"""Registration of whole experts computations as torch operators.

An operator is opaque to ``torch.compile``: no graph break, no specialisation on token counts,
whatever its implementation does on the host. Where nobody makes a graph, it is its implementation
that runs: torch would convert some twenty arguments there and back for each call.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.autograd import forward_ad

# torch.library is not annotated.
# mypy: allow-untyped-calls

_LIBRARY = torch.library.Library("moe_kernels", "FRAGMENT")


def register_operator(
    fake: Callable[..., Any],
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a function of tensors to become ``torch.ops.moe_kernels.<its name>``.

    ``fake`` takes the same arguments and returns empty tensors of the right shape and dtype. The
    function mutates none of its arguments, and has no derivative: to ask for one is a RuntimeError,
    where a compiler makes a graph of it when that is made. Its first argument is a tensor, and
    all are given by position. What the decorator returns calls the operator, or the function where
    that comes to the same.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        name = function.__name__
        # The low-level interface costs a few microseconds less per call than custom_op.
        _LIBRARY.define(name + torch.library.infer_schema(function, mutates_args=()))
        _LIBRARY.impl(name, function, "CompositeExplicitAutograd")
        torch.library.register_fake(f"moe_kernels::{name}", fake, lib=_LIBRARY)
        operator = getattr(torch.ops.moe_kernels, name).default
        _LIBRARY.impl(name, _refusing_gradients(operator), "Autograd", with_keyset=True)

        @functools.wraps(function)
        def call(*args: Any) -> Any:
            return operator(*args) if _is_watched(args) else function(*args)

        return call

    return decorate


def _refusing_gradients(operator: Any) -> Callable[..., Any]:
    """The operator for autograd: what it computes, whose gradients are refused.

    torch.library.register_autograd does not look into lists that may hold None, where biases and
    scales are.
    """

    def refusing(keyset: Any, *args: Any) -> Any:
        asked = _asked_for_gradients(args) if torch.is_grad_enabled() else []
        if asked and _is_in_torch_func():  # it takes the gradients in any case
            raise _no_backward(operator._opname)
        if forward_ad._current_level >= 0 and _has_tangents(args):
            raise RuntimeError(
                f"{operator._opname} of moe_kernels has no derivative in forward mode"
            )
        with torch._C._AutoDispatchBelowAutograd():
            output = operator.redispatch(keyset & torch._C._after_autograd_keyset, *args)
        return _NoBackward.apply(operator._opname, output, *asked) if asked else output

    return refusing


class _NoBackward(torch.autograd.Function):
    """Gives on what an operator computed of tensors that gradients are asked of."""

    @staticmethod
    def forward(ctx: Any, name: str, output: Any, *asked: torch.Tensor) -> Any:
        ctx.name = name
        return output

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise _no_backward(ctx.name)


def _no_backward(name: str) -> RuntimeError:
    return RuntimeError(f"{name} of moe_kernels has no backward: call it under torch.no_grad()")


def _is_watched(args: tuple[Any, ...]) -> bool:
    """Whether somebody wants to know that an operator is called so, or what it would give.

    As compilers, tracers, modes, autograd, transforms of functions and subclasses of tensors do.
    """
    return (
        torch.compiler.is_compiling()
        or type(args[0]) is not torch.Tensor
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._is_tracing()
        or _is_in_torch_func()
        or forward_ad._current_level >= 0
        or (torch.is_grad_enabled() and bool(_asked_for_gradients(args)))
    )


def _is_in_torch_func() -> bool:
    """Whether torch.func transforms what is called: tensors then have no memory of their own."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def _asked_for_gradients(args: Iterable[Any]) -> list[torch.Tensor]:
    """The tensors among arguments that gradients are asked of."""
    return [x for x in _tensors(args) if x.requires_grad]


def _has_tangents(args: Iterable[Any]) -> bool:
    """Whether a tensor among arguments has a derivative in forward mode."""
    return any(forward_ad.unpack_dual(x).tangent is not None for x in _tensors(args))


def _tensors(args: Iterable[Any]) -> Iterator[torch.Tensor]:
    """The tensors among arguments, those in lists included."""
    for argument in args:
        if isinstance(argument, list):
            yield from _tensors(argument)
        elif isinstance(argument, torch.Tensor):
            yield argument
