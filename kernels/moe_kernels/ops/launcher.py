"""Launching Triton kernels again and again, at little cost to the host.

Triton looks at every argument of every launch to find the compiled kernel for it, which takes
several times as long as the launch. So what does not change from call to call is put into a
:class:`Launcher` once, and launchers are kept by what they depend on (:func:`kept`).
"""

# Triton is not annotated.
# mypy: allow-untyped-calls

from __future__ import annotations

import functools
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
    descriptor). ``viewed``: the dtypes that it has tensors as, by their places, if other ones.
    """

    def __init__(
        self,
        kernel: Any,
        grid: tuple[int, ...],
        scalars: tuple[float, ...],
        constants: Mapping[str, Any],
        described: Mapping[int, Callable[[Any], Any]] | None = None,
        viewed: Mapping[int, torch.dtype] | None = None,
        **options: Any,
    ) -> None:
        self._grid = (*grid, 1, 1)[:3]
        self._plain = functools.partial(_launch, kernel[self._grid], scalars, constants, options)
        self._described = described or {}
        self._viewed = viewed or {}
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
        addresses: list[Any] = []
        key: list[Any] = [device]
        bits = 0
        for x in tensors:
            if x is None:
                addresses.append(0)
                key.append(None)
            else:
                address = x.data_ptr()
                addresses.append(address)
                key.append(x.dtype)
                bits |= address
        aligned = bits % _ALIGNMENT == 0
        compiled = self._compiled.get(tuple(key)) if aligned else None
        if compiled is not None:
            for place, describe in self._described.items():
                addresses[place] = describe(tensors[place])
            compiled(*addresses, *self._others)
            return
        kernel = self._plain(*self._as_taken(tensors))
        if aligned and _depends_on_key_alone(kernel):
            self._compiled[tuple(key)] = _prepared(kernel, self._grid, device)

    def _as_taken(self, tensors: Sequence[torch.Tensor | None]) -> list[Any]:
        """What Triton is given."""
        taken: list[Any] = list(tensors)
        for place, dtype in self._viewed.items():
            if taken[place] is not None:
                taken[place] = taken[place].view(dtype)
        for place, describe in self._described.items():
            taken[place] = describe(taken[place])
        return taken


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
