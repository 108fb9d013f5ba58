"""What oneDNN multiplies on this CPU: the one place that asks."""

from __future__ import annotations

import torch


def multiplies(dtype: torch.dtype) -> bool:
    """Whether oneDNN has fast products of ``dtype`` here; of int8 with uint8, and exact ones.

    The answer follows ``ONEDNN_MAX_CPU_ISA``, so a newer CPU can stand in for an older one.
    """
    if not torch._C._has_mkldnn:
        return False
    operators = torch.ops.mkldnn
    if dtype == torch.int8:
        # Without VNNI, sums of two products may saturate. torch asks the CPU for that and not
        # oneDNN, but what keeps oneDNN from AVX-512 keeps it from VNNI and from bf16 as well.
        return torch.cpu._is_vnni_supported() and bool(operators._is_mkldnn_bf16_supported())
    return (
        dtype == torch.float32
        or (dtype == torch.bfloat16 and bool(operators._is_mkldnn_bf16_supported()))
        or (dtype == torch.float16 and bool(operators._is_mkldnn_fp16_supported()))
    )
