"""Quantization keys: the structured names of how weights or activations are quantized.

A key says which dtype the values have, how their scales are laid out, and whether a second
(per-tensor) scale exists. The named keys are those of vLLM 0.33
(``vllm/model_executor/layers/quantization/utils/quant_utils.py``); any other combination is
written structurally. This module imports nothing outside the standard library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

TENSOR = (-1, -1)
"""One scale for the whole tensor."""
TOKEN = (1, -1)
"""One scale for each row (token)."""
CHANNEL = (-1, 1)
"""One scale for each output channel."""

_SHAPE_NAMES = {TENSOR: "tensor", TOKEN: "token", CHANNEL: "channel"}
_NAMED_SHAPES = {name: shape for shape, name in _SHAPE_NAMES.items()}


@dataclass(frozen=True, slots=True)
class Scale:
    """The scales of one quantized tensor.

    ``dtype`` is the scale's dtype name ("fp32", "fp8_e4m3", "e8m0", ...); ``static`` is true for
    scales stored in the checkpoint, false for scales computed from the values at run time;
    ``group_shape`` is (rows, columns) covered by one scale, where -1 covers the whole extent.
    Raises ValueError for a part of another type.
    """

    dtype: str
    static: bool
    group_shape: tuple[int, int]

    def __post_init__(self) -> None:
        _check_types("a scale", self, {"dtype": str, "static": bool})
        object.__setattr__(self, "group_shape", _group_shape(self.group_shape))

    @property
    def shape_name(self) -> str:
        """One of "tensor", "token", "channel", or "RxC" for a group."""
        rows, columns = self.group_shape
        return _SHAPE_NAMES.get(self.group_shape, f"{rows}x{columns}")

    def to_dict(self) -> dict[str, Any]:
        """Plain form: ``group_shape`` is a name, or [rows, columns]."""
        shape = _SHAPE_NAMES.get(self.group_shape, list(self.group_shape))
        return {"dtype": self.dtype, "static": self.static, "group_shape": shape}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Scale:
        """Inverse of :meth:`to_dict`. Raises ValueError on malformed input."""
        _check_names("a scale", data, ("dtype", "static", "group_shape"))
        return cls(data["dtype"], data["static"], data["group_shape"])


def _group_shape(raw: object) -> tuple[int, int]:
    if isinstance(raw, str) and raw in _NAMED_SHAPES:
        return _NAMED_SHAPES[raw]
    extents = raw if isinstance(raw, list | tuple) else []
    if len(extents) == 2 and all(type(one) is int and (one == -1 or one > 0) for one in extents):
        return extents[0], extents[1]
    raise ValueError(
        f"unknown group shape {raw!r}; expected one of {sorted(_NAMED_SHAPES)} or [rows, columns]"
    )


def _check_names(
    what: str, data: object, required: Sequence[str], optional: Sequence[str] = ()
) -> None:
    """Raise ValueError for a part that is missing or unknown."""
    known = (*required, *optional)
    if not isinstance(data, Mapping):
        raise ValueError(f"{what} has parts ({', '.join(known)}), unlike {data!r}")
    for name in required:
        if name not in data:
            raise ValueError(f"{what} lacks {name!r}")
    for name in data:
        if name not in known:
            raise ValueError(f"{what} has no {name!r} (it has {', '.join(known)})")


def _check_types(what: str, key: object, types: Mapping[str, Any]) -> None:
    """Raise ValueError for a part of another type."""
    for name, type_ in types.items():
        if not isinstance(getattr(key, name), type_):
            raise ValueError(f"{name} of {what} cannot be {getattr(key, name)!r}")


@dataclass(frozen=True, slots=True)
class QuantKey:
    """How a tensor is quantized: value dtype, first-level scale, optional second-level scale.

    ``dtype`` is the value dtype: "fp8_e4m3" (the platform's preferred FP8: e4m3fnuz on gfx94x),
    "int8", "uint8" (two packed FP4 values), or a vLLM ScalarType name ("uint4b8", "uint4", ...).
    Keys compare by value; two names for one value are one key. Raises ValueError for a part of
    another type.
    """

    dtype: str
    scale: Scale
    scale2: Scale | None = None
    symmetric: bool = True
    # Keys are looked up for every layer; their hash is computed once.
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_types("a key", self, {"dtype": str, "scale": Scale, "symmetric": bool})
        _check_types("a key", self, {"scale2": Scale | None})
        parts = (self.dtype, self.scale, self.scale2, self.symmetric)
        object.__setattr__(self, "_hash", hash(parts))

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[type[QuantKey], tuple[Any, ...]]:
        # Hashes of text differ between processes.
        return QuantKey, (self.dtype, self.scale, self.scale2, self.symmetric)

    @property
    def name(self) -> str | None:
        """The vLLM constant for this value (``kFp8StaticTensorSym``), or None if it has none."""
        return _NAME_OF.get(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain, JSON-serialisable form, with the name."""
        return {
            "name": self.name,
            "dtype": self.dtype,
            "scale": self.scale.to_dict(),
            "scale2": None if self.scale2 is None else self.scale2.to_dict(),
            "symmetric": self.symmetric,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> QuantKey:
        """Inverse of :meth:`to_dict` (the name is not read: the value decides).

        Raises ValueError on malformed input.
        """
        _check_names("a key", data, ("dtype", "scale"), ("scale2", "symmetric", "name"))
        scale, scale2 = (
            Scale.from_dict(part) if isinstance(part, Mapping) else part
            for part in (data["scale"], data.get("scale2"))
        )
        return cls(data["dtype"], scale, scale2, data.get("symmetric", True))  # type: ignore[arg-type]

    def __str__(self) -> str:
        if self.name is not None:
            return self.name
        kind = "static" if self.scale.static else "dynamic"
        text = f"{self.dtype}:{self.scale.dtype}:{kind}:{self.scale.shape_name}"
        if self.scale2 is not None:
            text += f"+{self.scale2.dtype}:{self.scale2.shape_name}"
        return text if self.symmetric else f"{text}:asymmetric"


_FP32, _FP16, _BF16, _FP8, _E8M0_BITS = "fp32", "fp16", "bf16", "fp8_e4m3", "uint8"


def _key(
    dtype: str,
    scale_dtype: str,
    kind: str,
    group_shape: tuple[int, int],
    scale2: Scale | None = None,
    *,
    symmetric: bool = True,
) -> QuantKey:
    return QuantKey(dtype, Scale(scale_dtype, kind == "static", group_shape), scale2, symmetric)


_TENSOR_SCALE2 = Scale(_FP32, True, TENSOR)
_TOKEN_SCALE2 = Scale(_FP32, False, TOKEN)

# vLLM gives some int4 layouts of the w4a8_int8 scheme the storage dtype int8, so that
# kInt4W4A8StaticChannelSym equals kInt8StaticChannelSym: two names, one value.
NAMED_KEYS: dict[str, QuantKey] = {
    "kFp8StaticTensorSym": _key("fp8_e4m3", _FP32, "static", TENSOR),
    "kFp8DynamicTensorSym": _key("fp8_e4m3", _FP32, "dynamic", TENSOR),
    "kFp8StaticTokenSym": _key("fp8_e4m3", _FP32, "static", TOKEN),
    "kFp8DynamicTokenSym": _key("fp8_e4m3", _FP32, "dynamic", TOKEN),
    "kFp8StaticChannelSym": _key("fp8_e4m3", _FP32, "static", CHANNEL),
    "kFp8Static128BlockSym": _key("fp8_e4m3", _FP32, "static", (128, 128)),
    "kFp8Static128BlockE8M0Sym": _key("fp8_e4m3", "e8m0", "static", (128, 128)),
    "kFp8Dynamic128Sym": _key("fp8_e4m3", _FP32, "dynamic", (1, 128)),
    "kFp8Dynamic64Sym": _key("fp8_e4m3", _FP32, "dynamic", (1, 64)),
    "kMxfp8Static": _key("fp8_e4m3", _E8M0_BITS, "static", (1, 32)),
    "kMxfp8Dynamic": _key("fp8_e4m3", _E8M0_BITS, "dynamic", (1, 32)),
    "kNvfp4Static": _key("uint8", _FP8, "static", (1, 16), _TENSOR_SCALE2),
    "kNvfp4Dynamic": _key("uint8", _FP8, "dynamic", (1, 16), _TENSOR_SCALE2),
    "kNvfp4DynamicToken": _key("uint8", _FP8, "dynamic", (1, 16), _TOKEN_SCALE2),
    "kMxfp4Static": _key("uint8", _E8M0_BITS, "static", (1, 32)),
    "kMxfp4Dynamic": _key("uint8", _E8M0_BITS, "dynamic", (1, 32)),
    "kMxfp6E3M2Static": _key("float6_e3m2f", _E8M0_BITS, "static", (1, 32)),
    "kMxfp6E3M2Dynamic": _key("float6_e3m2f", _E8M0_BITS, "dynamic", (1, 32)),
    "kMxfp6E2M3Static": _key("float6_e2m3f", _E8M0_BITS, "static", (1, 32)),
    "kMxfp6E2M3Dynamic": _key("float6_e2m3f", _E8M0_BITS, "dynamic", (1, 32)),
    "kInt4Static": _key("uint4b8", _FP16, "static", TOKEN),
    "kInt4Static32": _key("uint4b8", _FP16, "static", (1, 32)),
    "kInt4StaticAsym": _key("uint4", _FP16, "static", TOKEN, symmetric=False),
    "kInt4Static32Asym": _key("uint4", _FP16, "static", (1, 32), symmetric=False),
    "kInt8Static": _key("uint8b128", _FP16, "static", TOKEN),
    "kInt8StaticChannelSym": _key("int8", _FP32, "static", CHANNEL),
    "kInt8StaticTensorSym": _key("int8", _FP32, "static", TENSOR),
    "kInt8StaticTensorAsym": _key("int8", _FP32, "static", TENSOR, symmetric=False),
    "kInt8DynamicTokenSym": _key("int8", _FP32, "dynamic", TOKEN),
    "kInt8DynamicTokenAsym": _key("int8", _FP32, "dynamic", TOKEN, symmetric=False),
    "kInt8DynamicTensorSym": _key("int8", _FP32, "dynamic", TENSOR),
    "kInt8DynamicTensorAsym": _key("int8", _FP32, "dynamic", TENSOR, symmetric=False),
    "kInt8Dynamic32Sym": _key("int8", _FP32, "dynamic", (1, 32)),
    "kInt4W4A8StaticGroupSym": _key("int8", _BF16, "static", TOKEN),
    "kInt4W4A8StaticGroup128Sym": _key("int8", _BF16, "static", (1, 128)),
    "kInt4W4A8StaticGroup64Sym": _key("int8", _BF16, "static", (1, 64)),
    "kInt4W4A8StaticGroup32Sym": _key("int8", _BF16, "static", (1, 32)),
    "kInt4W4A8StaticChannelSym": _key("int8", _FP32, "static", CHANNEL),
}
"""Every quantization key that vLLM names, by that name."""

_NAME_OF: dict[QuantKey, str] = {}
for _name, _value in NAMED_KEYS.items():
    _NAME_OF.setdefault(_value, _name)
