"""Which GEMMs the kernel takes whose warpgroups share the work; any other goes to the other one."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton", minversion="3.6")

from moe_kernels.activation import ActivationParameters  # noqa: E402
from moe_kernels.ops.fused_moe_gemm_hopper import takes  # noqa: E402
from moe_kernels.ops.gemm_launch import FusedActivation, GemmCall  # noqa: E402
from moe_kernels.tensor_spec import spec_of  # noqa: E402
from moe_kernels.tiling.devices import specializes_warps  # noqa: E402
from moe_kernels.tiling.tile_config import TileConfig  # noqa: E402

TILE = TileConfig(128, 256, 128, 1, 8, 4, warp_specialized=True)
SILU = FusedActivation("silu", ActivationParameters())
CALL = GemmCall(3, False, 0, 64, 2, TILE, SILU, torch.bfloat16, False)


def taken(
    call: GemmCall = CALL,
    n: int = 512,
    k: int = 256,
    columns: int | None = None,
    dtype: torch.dtype = torch.float8_e4m3fn,
    scales: str = "block",
    block_shape: tuple[int, int] | None = (128, 128),
    scale_strides: tuple[int, int] = (2, 1),
    transposed: bool = False,
) -> bool:
    """Whether it takes the GEMM; ``columns``: how far apart the rows of both matrices are."""
    columns = columns or k
    a = torch.empty(32, columns, dtype=dtype, device="meta")[:, :k]
    b = torch.empty(4, n, columns, dtype=dtype, device="meta")[..., :k]
    if transposed:
        b = torch.empty(4, k, n, dtype=dtype, device="meta").mT
    strides = [*scale_strides, 8, 2, 1] if scales == "block" else [1, 0, n, 1, 0]
    return takes(call, spec_of(a), spec_of(b), scales, strides, block_shape)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bits_are_taken(dtype):
    call = CALL._replace(config=TILE._replace(block_k=64))
    assert taken(call, dtype=dtype, scales="none", block_shape=None)
    assert not taken(dtype=dtype, scales="none", block_shape=None), "another tile"


@pytest.mark.parametrize("activation", [None, "swigluoai"])
def test_transposed_weights_of_16_bits_are_taken(activation):
    fused = activation and FusedActivation(activation, ActivationParameters())
    call = CALL._replace(config=TILE._replace(block_k=64), activation=fused)
    given = {"dtype": torch.bfloat16, "scales": "none", "block_shape": None, "transposed": True}
    assert taken(call, n=400, k=320, **given)
    assert not taken(call, n=400, k=304, **given), "columns of another expert"
    assert not taken(call, n=200, k=320, **given), "rows that do not begin at 16 bytes"
    assert not taken(call._replace(activation=SILU), n=512, k=320, **given), "halves far apart"
    assert not taken(CALL._replace(activation=fused), **given | {"dtype": torch.float8_e4m3fn})


def test_fp8_is_taken():
    assert taken()
    assert taken(columns=320)
    assert taken(scales="outer", block_shape=None)
    assert taken(block_shape=(256, 128), n=1024)
    assert taken(CALL._replace(activation=None), n=200)


def test_scales_of_sorted_rows_are_taken_by_columns():
    call = CALL._replace(a_is_sorted=True)
    assert taken(call, scale_strides=(1, 384))
    assert not taken(call)
    assert not taken(call, scale_strides=(1, 383)), "no 16 bytes"
    assert not taken(scale_strides=(1, 384))
    assert taken(call, scales="outer", block_shape=None)


REFUSED = {
    "unsorted pairs": {"call": CALL._replace(blocks=None)},
    "integers": {"dtype": torch.int8},
    "bf16 with scales": {
        "call": CALL._replace(config=TILE._replace(block_k=64)),
        "dtype": torch.bfloat16,
        "scales": "outer",
        "block_shape": None,
    },
    "no scales": {"scales": "none", "block_shape": None},
    "another tile": {"call": CALL._replace(config=TILE._replace(block_n=128))},
    "a result in float32": {"call": CALL._replace(out_dtype=torch.float32)},
    "rows that are no runs of 16 bytes": {"k": 200},
    "rows that do not begin at 16 bytes": {"columns": 264},
    "small blocks": {"block_shape": (64, 32)},
    "gates and ups that share a block": {"n": 320},
}


@pytest.mark.parametrize("what", REFUSED)
def test_others_are_not(what):
    assert not taken(**REFUSED[what])


def test_no_cpu_specializes_warps():
    assert not specializes_warps(torch.device("cpu"))
