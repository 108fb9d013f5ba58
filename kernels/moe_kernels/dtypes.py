"""The dtype names of :mod:`moe_rules.vocabulary` as torch dtypes."""

from __future__ import annotations

import torch

TORCH_DTYPES = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "fp8_e4m3": torch.float8_e4m3fn,
}
"""The torch dtype of each name that kernels take. "fp8_e4m3" is the OCP format (e4m3fn)."""


def torch_dtype(name: str) -> torch.dtype:
    """The torch dtype called ``name`` in layer configurations and quantization keys.

    Raises ValueError for a name that no kernel here takes.
    """
    try:
        return TORCH_DTYPES[name]
    except KeyError:
        raise ValueError(
            f"no kernel takes dtype {name!r}; expected one of {', '.join(TORCH_DTYPES)}"
        ) from None
