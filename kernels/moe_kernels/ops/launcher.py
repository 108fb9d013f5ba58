"""Launching Triton kernels again and again, at little cost to the host.

Triton looks at every argument of every launch to find the compiled kernel for it, which takes
several times as long as the launch. So what does not change from call to call is put into a
:class:`Launcher` once, and launchers are kept by what they depend on (:func:`kept`).
"""

# Triton is not annotated.
# mypy: allow-untyped-calls

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import triton
from triton import knobs

kept = functools.lru_cache(maxsize=4096)
"""Decorate a function of what is hashable to return the same launcher for the same arguments.

Layers of the same shape share theirs; with a different number of tokens comes another.
"""

_ALIGNMENT = 16
"""Triton compiles for pointers that this divides, and for others."""


class Launcher:
    """A Triton kernel with its grid and all its arguments but tensors.

    The kernel's tensors, of which any may be None, are its first parameters; ``scalars`` (integers
    and floats) the next; ``constants`` its constexprs. ``options``: of the launch, as num_warps.
    ``described``: what makes of a tensor, by its place, what the kernel takes in its stead (a TMA
    descriptor).
    """

    def __init__(
        self,
        kernel: Any,
        grid: tuple[int, ...],
        scalars: tuple[float, ...],
        constants: Mapping[str, Any],
        described: Mapping[int, Callable[[torch.Tensor], Any]] | None = None,
        **options: Any,
    ) -> None:
        self._grid = (*grid, 1, 1)[:3]
        self._plain = functools.partial(_launch, kernel[self._grid], scalars, constants, options)
        self._described = described or {}
        # A compiled kernel takes constants, too, and ignores them.
        self._others = (*scalars, *constants.values())
        self._compiled: dict[tuple[Any, ...], Callable[..., None]] = {}

    def __call__(self, *tensors: torch.Tensor | None) -> None:
        """Launch on the current stream of the tensors' device; the first tensor is not None."""
        first = tensors[0]
        assert first is not None
        device = first.get_device()
        if first.is_cuda and device != torch.cuda.current_device():
            with torch.cuda.device(device):
                self(*tensors)
            return
        addresses = [0 if x is None else x.data_ptr() for x in tensors]
        if functools.reduce(operator.or_, addresses) % _ALIGNMENT:
            self._plain(*self._described_in(tensors, tensors))
            return
        key = (device, *[None if x is None else x.dtype for x in tensors])
        compiled = self._compiled.get(key)
        if compiled is not None:
            compiled(*self._described_in(addresses, tensors), *self._others)
            return
        kernel = self._plain(*self._described_in(tensors, tensors))
        if _depends_on_key_alone(kernel):
            self._compiled[key] = _prepared(kernel, self._grid, device)

    def _described_in(self, arguments: Sequence[Any], tensors: Sequence[Any]) -> Sequence[Any]:
        """``arguments``, with descriptions where the kernel takes them."""
        if not self._described:
            return arguments
        arguments = list(arguments)
        for place, describe in self._described.items():
            arguments[place] = describe(tensors[place])
        return arguments


def _launch(
    kernel: Callable[..., Any],
    scalars: tuple[float, ...],
    constants: Mapping[str, Any],
    options: Mapping[str, Any],
    *tensors: torch.Tensor | None,
) -> Any:
    """Launch as Triton does; returns what it compiled, None from its interpreter."""
    return kernel(*tensors, *scalars, **constants, **options)


def _depends_on_key_alone(kernel: Any) -> bool:
    """Whether Triton runs this compiled kernel for all aligned tensors of the same dtypes.

    So it is for NVIDIA's GPUs. For AMD's it looks at the sizes of tensors, too.
    """
    metadata = getattr(kernel, "metadata", None)
    return metadata is not None and metadata.target.backend == "cuda"


def _prepared(kernel: Any, grid: tuple[int, ...], device: int) -> Callable[..., None]:
    """``kernel[grid]``, but that nothing is made for hooks of launches while there are none."""
    with_hooks = kernel[grid]  # and it is loaded
    run = functools.partial(kernel.run, *grid)
    function, metadata = kernel.function, kernel.packed_metadata
    hooks, driver = knobs.runtime, triton.runtime.driver

    def launch(*arguments: Any) -> None:
        if hooks.launch_enter_hook.calls or hooks.launch_exit_hook.calls:
            with_hooks(*arguments)
        else:
            stream = driver.active.get_current_stream(device)
            run(stream, function, metadata, None, None, None, *arguments)

    return launch
