"""The kinds of checkpoint whose layers ``layer_life`` takes through their lives, as tiny tensors.

With each goes what vLLM's quantization methods pass to its functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

EXPERTS, HIDDEN, INTERMEDIATE = 2, 256, 128


class Scheme(NamedTuple):
    """One kind of checkpoint. ``tensors`` are named as oracles take them.

    ``convert``, ``describe`` and ``build`` say what vLLM's quantization methods pass to its
    functions: parameter=thing, where a thing is a tensor, or one of the objects at hand; after
    the conversion, tensors are the layer's.
    """

    oracle: str
    weight_key: str | None
    activation_key: str | None
    tensors: Callable[[], dict[str, Any]]
    convert: str
    describe: str
    build: str
    activation: str = "silu"
    more: Mapping[str, Any] = {}
    """What the oracle is told besides to convert."""
    constants: Mapping[str, Any] = {}
    """Other things of vLLM's calls."""


def integers(*shape: int, dtype: Any = None, high: int = 100) -> Any:
    import torch

    return torch.randint(1, high, shape).to(dtype or torch.uint8)


def floats(*shape: int, dtype: Any = None) -> Any:
    import torch

    return (torch.rand(shape) + 0.5).to(dtype or torch.float32)


def shapes(pack: int = 1, rows: int = 1, columns: int = 1) -> tuple[Any, Any]:
    """Of w13 and w2, ``pack`` values in an element, or of scales of blocks."""
    w13 = (EXPERTS, 2 * INTERMEDIATE // rows, HIDDEN // pack // columns)
    return w13, (EXPERTS, HIDDEN // rows, INTERMEDIATE // pack // columns)


def bf16() -> dict[str, Any]:
    import torch

    a, b = shapes()
    return {"w13": floats(*a, dtype=torch.bfloat16), "w2": floats(*b, dtype=torch.bfloat16)}


def fp8(*scale_shapes: tuple[int, ...], inputs: bool = False) -> dict[str, Any]:
    from vllm.model_executor.layers.quantization.utils.quant_utils import FP8_DTYPE

    a, b = shapes()
    tensors = {"w13": floats(*a, dtype=FP8_DTYPE), "w2": floats(*b, dtype=FP8_DTYPE)}
    tensors |= {n: floats(*s) for n, s in zip(("w13_scale", "w2_scale"), scale_shapes, strict=True)}
    if inputs:
        tensors |= {"a13_scale": floats(1), "a2_scale": floats(1)}
    return tensors


def mxfp8() -> dict[str, Any]:
    a, b = shapes(columns=32)
    tensors = fp8(a, b)
    return tensors | {"w13_scale": integers(*a), "w2_scale": integers(*b)}


def int8() -> dict[str, Any]:
    import torch

    a, b = shapes()
    return {
        "w13": integers(*a, dtype=torch.int8),
        "w2": integers(*b, dtype=torch.int8),
        "w13_scale": floats(EXPERTS, 2 * INTERMEDIATE, 1),
        "w2_scale": floats(EXPERTS, HIDDEN, 1),
    }


def mxfp4() -> dict[str, Any]:
    (a, b), (c, d) = shapes(pack=2), shapes(columns=32)
    return {
        "w13": integers(*a),
        "w2": integers(*b),
        "w13_scale": integers(*c),
        "w2_scale": integers(*d),
    }


def nvfp4() -> dict[str, Any]:
    import torch

    (a, b), (c, d) = shapes(pack=2), shapes(columns=16)
    return {
        "w13": integers(*a),
        "w2": integers(*b),
        "w13_scale": floats(*c, dtype=torch.float8_e4m3fn),
        "w2_scale": floats(*d, dtype=torch.float8_e4m3fn),
        "w13_scale_2": floats(EXPERTS),
        "w2_scale_2": floats(EXPERTS),
        "a13_scale": torch.full((EXPERTS, 2), 0.25),
        "a2_scale": torch.full((EXPERTS,), 0.25),
    }


def int4_groups() -> dict[str, Any]:
    """32-bit words along the input, as compressed-tensors hands them on."""
    import torch

    (a, b), (c, d) = shapes(pack=8), shapes(columns=32)
    return {
        "w13": integers(*a, dtype=torch.int32),
        "w2": integers(*b, dtype=torch.int32),
        "w13_scale": floats(*c, dtype=torch.bfloat16),
        "w2_scale": floats(*d, dtype=torch.bfloat16),
    }


def int4_bytes(columns: int) -> dict[str, Any]:
    import torch

    a, b = shapes()
    c, d = (*a[:2], a[2] // columns), (*b[:2], b[2] // columns)
    if columns == HIDDEN:
        c, d = (*a[:2], 1), (*b[:2], 1)
    return {
        "w13": integers(*a, dtype=torch.int8, high=7),
        "w2": integers(*b, dtype=torch.int8, high=7),
        "w13_scale": floats(*c),
        "w2_scale": floats(*d),
    }


_FP8 = "fp8_backend=backend layer w13 w2 w13_scale w2_scale w13_input_scale=a13_scale "
_FP8 += "w2_input_scale=a2_scale"
_FP8_DESCRIBE = "fp8_backend=backend w1_scale=w13_scale w2_scale a1_scale=a13_scale a2_scale "
_FP8_DESCRIBE += "block_shape per_act_token_quant per_out_ch_quant layer"
_FP8_BUILD = "moe_quant_config moe_config experts_cls fp8_backend=backend routing_tables"
_MXFP4 = "mxfp4_backend=backend layer w13_weight=w13 w2_weight=w2 w13_weight_scale=w13_scale "
_MXFP4 += "w2_weight_scale=w2_scale w13_bias w2_bias _cache_permute_indices"
_MXFP4_DESCRIBE = "mxfp4_backend=backend w1_scale=w13_scale w2_scale w1_bias=w13_bias "
_MXFP4_DESCRIBE += "w2_bias a1_scale=a13_scale a2_scale layer"
_MXFP4_BUILD = "moe_quant_config moe_config experts_cls mxfp4_backend=backend routing_tables"
_W4A8_INT8 = (
    "w13_weight=w13 w2_weight=w2 w13_weight_scale=w13_scale w2_weight_scale=w2_scale group_size "
    "w13_bias w2_bias",
    "block_shape",
    "moe_quant_config moe_config experts_cls routing_tables",
)


def _fp8(
    weight: str, activation: str | None, tensors: Any, oracle: str = "fp8", **more: Any
) -> Any:
    given = {"block_shape": None, "per_act_token_quant": False, "per_out_ch_quant": False}
    constants = given | more
    return Scheme(
        *(oracle, weight, activation, tensors, _FP8, _FP8_DESCRIBE, _FP8_BUILD), constants=constants
    )


def _mxfp4(method: str, activation: str, key: str | None = None, oracle: str = "mxfp4") -> Scheme:
    gpt_oss = method in ("gpt_oss_mxfp4", "quark")
    convert = _MXFP4 if gpt_oss else f"{_MXFP4} activation activation_key use_separated_a4w4"
    return Scheme(
        *(oracle, "kMxfp4Static", key, mxfp4, convert, _MXFP4_DESCRIBE, _MXFP4_BUILD),
        activation=activation,
        more={"quantization_method": method},
    )


SCHEMES = {
    "bf16": Scheme(
        *("unquantized", None, None, bf16),
        "unquantized_backend=backend moe_config w13_weight=w13 w2_weight=w2 layer",
        "w1_bias=w13_bias w2_bias",
        "quant_config=moe_quant_config moe_config backend experts_cls routing_tables",
    ),
    "fp8 block": _fp8(
        "kFp8Static128BlockSym",
        "kFp8Dynamic128Sym",
        lambda: fp8(*shapes(rows=128, columns=128)),
        block_shape=[128, 128],
    ),
    "fp8 tensor": _fp8(
        "kFp8StaticTensorSym", "kFp8StaticTensorSym", lambda: fp8((2,), (2,), inputs=True)
    ),
    "fp8 channel": _fp8(
        "kFp8StaticChannelSym",
        "kFp8DynamicTokenSym",
        lambda: fp8((EXPERTS, 2 * INTERMEDIATE, 1), (EXPERTS, HIDDEN, 1)),
        per_act_token_quant=True,
        per_out_ch_quant=True,
    ),
    "mxfp8": _fp8("kMxfp8Static", "kMxfp8Dynamic", mxfp8, "mxfp8", block_shape=[1, 32]),
    "int8": Scheme(
        *("int8", "kInt8StaticChannelSym", "kInt8DynamicTokenSym", int8),
        "int8_backend=backend w13 w2 layer w13_scale",
        "int8_backend=backend w1_scale=w13_scale w2_scale per_act_token_quant layer",
        "int8_backend=backend moe_quant_config moe_config experts_cls routing_tables",
        constants={"per_act_token_quant": True},
    ),
    "int4 groups": Scheme(
        *("int_wna16", "kInt4Static32", None, int4_groups),
        "backend layer quant_config input_dtype w13 w2 w13_scale w2_scale",
        "w1_scale=w13_scale w2_scale group_size num_bits w1_zp=w13_zp w2_zp",
        "moe_quant_config moe_config experts_cls backend routing_tables",
        constants={"group_size": 32, "num_bits": 4},
    ),
    **{
        f"mxfp4 {method}, {activation}": _mxfp4(method, activation)
        for method in ("gpt_oss_mxfp4", "quark", "mxfp4", "compressed-tensors")
        for activation in ("silu", "swigluoai")
    },
    "mxfp4 with fp8": _mxfp4("quark", "swigluoai", "kFp8StaticTensorSym"),
    "mxfp4 with mxfp4": _mxfp4("quark", "silu", "kMxfp4Dynamic"),
    "mxfp4 deepseek": _mxfp4("mxfp4", "silu", None, "mxfp4_deepseek_v4")._replace(more={}),
    "nvfp4": Scheme(
        *("nvfp4", "kNvfp4Static", "kNvfp4Dynamic", nvfp4),
        "nvfp4_backend=backend layer w13 w13_scale w13_scale_2 a13_scale w2 w2_scale w2_scale_2 "
        "a2_scale is_act_and_mul use_a16",
        "backend w13_scale w2_scale w13_scale_2 w2_scale_2 a13_scale a2_scale layer use_a16",
        "moe_quant_config moe_config experts_cls backend routing_tables",
        constants={"use_a16": False},
    ),
    "nvfp4 with bf16": Scheme(
        *("nvfp4", "kNvfp4Static", None, nvfp4),
        "nvfp4_backend=backend layer w13 w13_scale w13_scale_2 a13_scale w2 w2_scale w2_scale_2 "
        "a2_scale is_act_and_mul use_a16",
        "backend w13_scale w2_scale w13_scale_2 w2_scale_2 a13_scale a2_scale layer use_a16",
        "moe_quant_config moe_config experts_cls backend routing_tables",
        constants={"use_a16": True},
    ),
    "w4a8": Scheme(
        *("w4a8", "kInt4Static", "kFp8DynamicTokenSym", int4_groups),
        "backend layer group_size w13_weight=w13 w2_weight=w2 w13_weight_scale=w13_scale "
        "w2_weight_scale=w2_scale",
        "backend w1_scale=w13_scale w2_scale g1_alphas=w13_scale_2 g2_alphas=w2_scale_2 layer",
        "backend moe_quant_config moe_config experts_cls b_strides1 b_strides2 group_size "
        "routing_tables",
        more={"group_size": 128},
        constants={"group_size": 128},
    ),
    "w4a8_int8 channel": Scheme(
        *("w4a8_int8", "kInt4W4A8StaticChannelSym", None, lambda: int4_bytes(HIDDEN)),
        *_W4A8_INT8,
        constants={"group_size": -1, "block_shape": (-1, 1)},
    ),
    "w4a8_int8 groups": Scheme(
        *("w4a8_int8", "kInt4W4A8StaticGroup32Sym", None, lambda: int4_bytes(32)),
        *_W4A8_INT8,
        constants={"group_size": 32, "block_shape": (1, 32)},
    ),
}
