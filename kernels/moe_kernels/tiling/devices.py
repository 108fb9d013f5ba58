"""What tilings have to know of a device."""

from __future__ import annotations

import functools

import torch
import triton


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """How many there are; of no GPU, as many as an H200 has."""
    if device.type != "cuda":
        return 132
    return torch.cuda.get_device_properties(device).multi_processor_count


@functools.cache
def shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that one program may have."""
    if device.type != "cuda":
        return 64 * 1024
    properties = torch.cuda.get_device_properties(device)
    return int(getattr(properties, "shared_memory_per_block_optin", 64 * 1024))


@functools.cache
def has_gluon() -> bool:
    """Whether Triton has Gluon as the kernels here are written in it: from 3.6 on."""
    return tuple(int(part) for part in triton.__version__.split(".")[:2]) >= (3, 6)


@functools.cache
def specializes_warps(device: torch.device) -> bool:
    """Whether GEMMs whose warpgroups share the work run there: on Hopper, from Triton 3.6 on."""
    if device.type != "cuda" or torch.version.hip is not None or not torch.cuda.is_available():
        return False
    return has_gluon() and torch.cuda.get_device_capability(device)[0] == 9
