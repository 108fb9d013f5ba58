"""What Triton 3.6 and later ones have in Gluon by different names."""

# mypy: allow-untyped-calls

from __future__ import annotations

from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import async_copy, tma

load_rows = getattr(async_copy, "async_load", None) or async_copy.async_copy_global_to_shared
"""Of pointers, to shared memory; threads ask for them."""
load_tile = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
store_tile = getattr(tma, "async_store", None) or tma.async_copy_shared_to_global

_Buffer = gl.shared_memory_descriptor
as_other = getattr(_Buffer, "reinterpret", None) or _Buffer._reinterpret
"""Shared memory as if of another dtype, shape or layout."""
