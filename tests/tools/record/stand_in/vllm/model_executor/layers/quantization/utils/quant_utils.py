from dataclasses import dataclass

import torch

FP8_DTYPE = torch.float8_e4m3fn


@dataclass(frozen=True)
class GroupShape:
    row: int
    col: int


@dataclass(frozen=True)
class ScaleDesc:
    dtype: torch.dtype
    static: bool
    group_shape: GroupShape


@dataclass(frozen=True)
class QuantKey:
    dtype: torch.dtype
    scale: ScaleDesc
    scale2: ScaleDesc | None = None
    symmetric: bool = True


kFp8StaticTensorSym = QuantKey(  # noqa: N816
    FP8_DTYPE, ScaleDesc(torch.float32, True, GroupShape(-1, -1))
)
