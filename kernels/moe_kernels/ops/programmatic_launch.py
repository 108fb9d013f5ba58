"""Programmatic dependent launch: a kernel's programs start while the one before it finishes.

Every kernel that is launched this way waits for the one before it to complete before it reads
what that wrote, before it writes anything, and before it ends. It lets the next one start when it
has waited, or at once (:func:`let_next_start`) if the routing was there before the launch before
it. So every kernel that starts finds a routing complete that is older than the launch before it,
and may read it, and whatever no kernel writes, before it waits.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import functools
from typing import Any

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def let_next_start(PROGRAMMATIC: tl.constexpr):
    """Let the kernel after this one start, without :func:`wait_for_previous`."""
    if PROGRAMMATIC:
        gdc_launch_dependents()


@triton.jit
def wait_for_previous(PROGRAMMATIC: tl.constexpr):
    """Wait until the kernel before this one is complete; let the one after it start."""
    if PROGRAMMATIC:
        gdc_wait()
        gdc_launch_dependents()


@triton.jit
def prefetch_rows(rows, num_bytes):
    """Ask for the first bytes of each row (pointers [N], ``num_bytes`` long) to come into L2.

    For what is known to be there before :func:`wait_for_previous`; NVIDIA GPUs only.
    """
    # More were measured to come in the way of what the kernel before this one still reads.
    line = tl.arange(0, 2) * 128
    address = rows.to(tl.int64)[:, None] + tl.where(line < num_bytes, line, 0)[None, :]
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.b32 $0, 0;",
        "=r,l",
        [address],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )


@functools.cache
def is_programmatic(device: torch.device) -> bool:
    """Whether kernels on ``device`` are launched this way: NVIDIA's from compute capability 9.0."""
    return (
        device.type == "cuda"
        and torch.version.hip is None
        and torch.cuda.get_device_capability(device) >= (9, 0)
    )


def launch_attributes(device: torch.device) -> dict[str, Any]:
    """Keyword arguments of a launch on ``device``."""
    return {"launch_pdl": True} if is_programmatic(device) else {}
