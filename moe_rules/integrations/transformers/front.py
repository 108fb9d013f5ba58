"""Classes of ours in front of those of modules, for as long as a model has this implementation."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized


class Front(nn.Module):
    """What :func:`put_in_front` puts in front of the class of a module."""

    _plain_class: type[nn.Module]
    _kept: ClassVar[tuple[str, ...]]
    """What it keeps in a module, what was found out of that first."""

    @torch.compiler.assume_constant_result  # type: ignore[misc]
    def when_traced(self, function: Callable[..., None], *args: object) -> None:
        """``function`` of the module, which torch.compile calls when it traces, and does not trace.

        Before torch 2.13 it gives a module to none but the module's own methods.
        """
        function(self, *args)

    def __setattr__(self, name: str, value: Any) -> None:
        """What is set may be what the module's code looks at, so that it is asked anew."""
        if name != "training":
            self.__dict__.pop(self._kept[0], None)
        super().__setattr__(name, value)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copies and pickles are plain."""
        state = {name: x for name, x in self.__dict__.items() if name not in self._kept}
        return object.__new__, (plain_class(self),), state


def put_in_front(front: type[Front], module: Any) -> None:
    """Put ``front`` in front of the class of ``module``; twice is as once."""
    if not isinstance(module, front):
        _change_class(module, lambda cls: _with_front(front, cls))  # type: ignore[arg-type]


def plain_class(module: Any) -> type[nn.Module]:
    """The class of ``module`` without what is in front of it."""
    plain: type[nn.Module] = getattr(module, "_plain_class", type(module))
    return plain


def make_plain(module: Any) -> None:
    """Take away what is in front of the class of ``module``, if anything is."""
    _change_class(module, lambda cls: getattr(cls, "_plain_class", cls))


def _change_class(module: Any, changed: Callable[[Any], Any]) -> None:
    """Give ``module`` the changed class: in a parametrized one, below that of torch.

    Torch makes a class for each such module, and returns to its base with the last parametrization.
    """
    cls = type(module)
    if not is_parametrized(module):
        module.__class__ = changed(cls)
        return
    own = {name: x for name, x in vars(cls).items() if name not in ("__dict__", "__weakref__")}
    module.__class__ = type(cls.__name__, (changed(cls.__bases__[0]),), own)


@functools.cache
def _with_front(front: Any, cls: Any) -> Any:
    names = {"_plain_class": cls, "__module__": cls.__module__, "__doc__": cls.__doc__}
    return type(cls.__name__, (front, cls), names)
