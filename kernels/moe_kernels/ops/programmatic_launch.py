"""Programmatic dependent launch: a kernel's programs start while the one before it finishes.

Every kernel that is launched this way waits for the one before it to complete before it reads
what that wrote, and before it writes anything; then it lets the next one start. So whatever was
complete when a kernel let the next one start may be read by that one without waiting.
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
def wait_for_previous(PROGRAMMATIC: tl.constexpr):
    """Wait until the kernel before this one is complete; let the one after it start."""
    if PROGRAMMATIC:
        gdc_wait()
        gdc_launch_dependents()


@functools.cache
def launch_options(device: torch.device) -> dict[str, Any]:
    """Keyword arguments of a launch on ``device``; PROGRAMMATIC is the kernel's own parameter.

    NVIDIA GPUs have it from compute capability 9.0 on.
    """
    programmatic = (
        device.type == "cuda"
        and torch.version.hip is None
        and torch.cuda.get_device_capability(device) >= (9, 0)
    )
    return {"PROGRAMMATIC": programmatic} | ({"launch_pdl": True} if programmatic else {})
