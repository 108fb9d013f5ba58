"""Tilings that were measured: they come before the rules of thumb.

A file holds what was measured for one scheme on one device, with the versions of torch and Triton
that it holds for. Those in ``configs/`` beside this module come with the package; folders in
``MOE_RULES_TUNED_CONFIGS`` (separated as in ``PATH``) come before them, earlier ones first, layer
by layer. Files are read when a layer of their scheme first runs. ``docs/tuning.md`` describes them.
"""

from __future__ import annotations

import functools
import json
import math
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import torch

from moe_kernels.tiling.tile_config import LayerConfig, TileConfig

PATH_VARIABLE = "MOE_RULES_TUNED_CONFIGS"
PACKAGED = Path(__file__).parent / "configs"
FARTHEST = 3.0
"""A number of pairs takes the tiling of the nearest one measured, if that is so many times off."""

_SHORT_DTYPES = {
    # Of one size and one rate: what is good for one is good for the other.
    torch.bfloat16: "bf16",
    torch.float16: "bf16",
    torch.float32: "fp32",
    torch.float8_e4m3fn: "fp8",
}


_HEAD = ("device", "scheme", "torch", "triton", "measured", "command")
_SIZES = ("experts", "w13_rows", "hidden_dim")
_ENTRY = ("pairs", "up", "down", "us", "heuristic_us")


class TunedConfigError(ValueError):
    """A file of tuned configurations is wrong; the message names it and the key."""


class LayerKey(NamedTuple):
    """What a layer's tilings depend on, besides its device and its number of pairs."""

    scheme: str
    experts: int
    """Local ones."""
    w13_rows: int
    """2I, or I without a gate."""
    hidden_dim: int


class TunedConfig(NamedTuple):
    """The tiling that was fastest for a number of (token, expert) pairs of local experts."""

    pairs: float
    config: LayerConfig
    us: float
    """Microseconds of the whole layer."""
    heuristic_us: float
    """The same with the tiling that the rules of thumb give."""


@dataclass(frozen=True)
class TunedFile:
    """One file: a device, a scheme, what it was measured with, and the configurations."""

    device: str
    scheme: str
    torch: str
    triton: str
    measured: str
    """When, as 2026-11-23."""
    command: str
    """What writes it anew."""
    layers: Mapping[LayerKey, Sequence[TunedConfig]]


@functools.cache
def scheme_name(
    weight_dtype: torch.dtype,
    block_shape: tuple[int, int] | None = None,
    weight_format: str | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> str:
    """What tilings depend on in how a layer is quantized, as a word: ``fp8-128x128``.

    ``weight_format``, ``dtype``: of weights that are dequantized to ``dtype`` as they are loaded.
    """
    stored = _SHORT_DTYPES.get(weight_dtype, str(weight_dtype).removeprefix("torch."))
    name = weight_format or stored
    if block_shape is not None:
        name += "-" + "x".join(map(str, block_shape))
    return name + "_fp32" if dtype == torch.float32 else name  # products of another kind


@functools.cache
def device_name(device: torch.device) -> str | None:
    """The product name of a GPU; None for anything else."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


@functools.cache
def versions() -> tuple[str, str]:
    """The versions of torch (without its build) and Triton that run."""
    import triton

    return torch.__version__.partition("+")[0], triton.__version__


_kept: list[Any] = []
_F = TypeVar("_F", bound=Callable[..., Any])


def kept_while_tilings_hold(function: _F) -> _F:
    """Decorate a function of what is hashable that asks for tilings to be called once for each.

    Until :func:`forget`.
    """
    cached = functools.lru_cache(maxsize=8192)(function)
    _kept.append(cached)
    return cast(_F, cached)


@kept_while_tilings_hold
def measured_config(
    device: torch.device, layer: LayerKey, num_local_pairs: float
) -> LayerConfig | None:
    """What was measured near on ``device``; None: nothing. Raises TunedConfigError."""
    name = device_name(device)
    if name is None:
        return None
    return nearest(_table(name, layer.scheme).get(layer, ()), num_local_pairs)


def nearest(measured: Sequence[TunedConfig], num_local_pairs: float) -> LayerConfig | None:
    """The tiling for the number of pairs with the least ratio to ``num_local_pairs``.

    None where that is above :data:`FARTHEST`. Of two equally near, the one for fewer pairs.
    """

    def distance(entry: TunedConfig) -> float:
        return abs(math.log(entry.pairs / num_local_pairs))

    found = min(measured, key=distance, default=None)
    if found is None or distance(found) > math.log(FARTHEST) + 1e-9:
        return None
    return found.config


@kept_while_tilings_hold
def _table(device: str, scheme: str) -> Mapping[LayerKey, Sequence[TunedConfig]]:
    """All that holds here for a scheme on a device."""
    table: dict[LayerKey, Sequence[TunedConfig]] = {}
    for folder in [PACKAGED, *reversed(user_folders())]:
        path = folder / file_name(device, scheme)
        if path.is_file():
            file = read(path)
            if (file.device, file.scheme) != (device, scheme):
                raise TunedConfigError(
                    f"{path}: device and scheme are {file.device!r} and {file.scheme!r}, which "
                    f"belong into a file called {file_name(file.device, file.scheme)}"
                )
            if _holds_here(path, file):
                table |= file.layers
    return table


def _holds_here(path: Path, file: TunedFile) -> bool:
    here = versions()
    if (file.torch, file.triton) == here:
        return True
    warnings.warn(
        f"the tilings in {path} are not used: they were measured with torch {file.torch} and "
        f"Triton {file.triton}, here are torch {here[0]} and Triton {here[1]}; this measures them "
        f"anew: {file.command}",
        stacklevel=2,
    )
    return False


def user_folders() -> list[Path]:
    """The folders in ``MOE_RULES_TUNED_CONFIGS``. Raises TunedConfigError if one is missing."""
    folders = [Path(word) for word in os.environ.get(PATH_VARIABLE, "").split(os.pathsep) if word]
    for folder in folders:
        if not folder.is_dir():
            raise TunedConfigError(f"{PATH_VARIABLE}: there is no folder {folder}")
    return folders


def file_name(device: str, scheme: str) -> str:
    """The name of the file for a scheme on a device: ``NVIDIA_H200.fp8-128x128.json``."""
    return f"{re.sub(r'[^A-Za-z0-9-]+', '_', device)}.{scheme}.json"


def forget() -> None:
    """Read files anew when they are next needed."""
    for cached in _kept:
        cached.cache_clear()


def read(path: Path) -> TunedFile:
    """Read one file. Raises TunedConfigError, with the file and the key, for anything wrong."""
    try:
        raw = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise TunedConfigError(f"{path}: {error}") from None
    reader = _Reader(path)
    reader.check_keys(raw, "", (*_HEAD, "layers"))
    texts = {name: reader.text(raw[name], name) for name in _HEAD}
    layers: dict[LayerKey, Sequence[TunedConfig]] = {}
    for i, entry in enumerate(reader.items(raw["layers"], "layers")):
        at = f"layers[{i}]"
        reader.check_keys(entry, at, (*_SIZES, "configs"))
        sizes = (reader.size(entry[name], f"{at}.{name}") for name in _SIZES)
        key = LayerKey(texts["scheme"], *sizes)
        if key in layers:
            raise reader.error(at, "this layer is there twice")
        layers[key] = reader.configs(entry["configs"], f"{at}.configs")
    return TunedFile(layers=layers, **texts)


def write(path: Path, file: TunedFile) -> None:
    """Write one file, a line per configuration."""
    layers = []
    for key, entries in sorted(file.layers.items()):
        lines = ",\n    ".join(
            json.dumps(dict(zip(_ENTRY, (e.pairs, *e.config, e.us, e.heuristic_us), strict=True)))
            for e in sorted(entries)
        )
        sizes = json.dumps({name: getattr(key, name) for name in _SIZES})
        layers.append(f'  {sizes[:-1]}, "configs": [\n    {lines}\n  ]}}')
    head = "".join(f"{json.dumps(n)}: {json.dumps(getattr(file, n))},\n" for n in _HEAD)
    listed = ",\n".join(layers)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{{\n{head}"layers": [\n{listed}\n]}}\n')


class _Reader:
    """Checks the parts of one file's content."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def error(self, key: str, message: str) -> TunedConfigError:
        return TunedConfigError(f"{self.path}: {key or 'the file'}: {message}")

    def check_keys(self, raw: Any, key: str, names: Sequence[str]) -> None:
        if not isinstance(raw, dict) or set(raw) != set(names):
            found = ", ".join(raw) if isinstance(raw, dict) else repr(raw)
            raise self.error(key, f"expected the keys {', '.join(names)}, got {found}")

    def text(self, raw: Any, key: str) -> str:
        if not isinstance(raw, str):
            raise self.error(key, f"expected text, got {raw!r}")
        return raw

    def items(self, raw: Any, key: str) -> list[Any]:
        if not isinstance(raw, list):
            raise self.error(key, f"expected a list, got {raw!r}")
        return raw

    def size(self, raw: Any, key: str) -> int:
        if type(raw) is not int or raw < 1:
            raise self.error(key, f"expected a whole number from 1 up, got {raw!r}")
        return raw

    def number(self, raw: Any, key: str) -> float:
        if type(raw) not in (int, float) or not 0 < raw < math.inf:
            raise self.error(key, f"expected a number above 0, got {raw!r}")
        return float(raw)

    def configs(self, raw: Any, key: str) -> tuple[TunedConfig, ...]:
        found = []
        for i, entry in enumerate(self.items(raw, key)):
            at = f"{key}[{i}]"
            self.check_keys(entry, at, _ENTRY)
            config = LayerConfig(
                *(self.tile(entry[name], f"{at}.{name}") for name in ("up", "down"))
            )
            if config.up.block_m != config.down.block_m:
                raise self.error(at, "up and down must have the same block_m")
            numbers = (self.number(entry[n], f"{at}.{n}") for n in ("pairs", "us", "heuristic_us"))
            pairs, us, heuristic_us = numbers
            found.append(TunedConfig(pairs, config, us, heuristic_us))
        return tuple(found)

    def tile(self, raw: Any, key: str) -> TileConfig:
        *names, flag = TileConfig._fields
        values = self.items(raw, key)
        sizes, flags = values[: len(names)], values[len(names) :]
        if len(sizes) < len(names) or len(flags) > 1:
            raise self.error(key, f"expected {', '.join(names)} and perhaps {flag}, got {raw}")
        for value in flags:
            if not isinstance(value, bool):
                raise self.error(key, f"{flag} must be true or false, got {value!r}")
        m, n, k, group_m, warps, stages = (self.size(size, key) for size in sizes)
        tile = TileConfig(m, n, k, group_m, warps, stages, *flags)
        for name in ("block_m", "block_n", "block_k", "num_warps"):
            if getattr(tile, name) & (getattr(tile, name) - 1):
                raise self.error(key, f"{name} must be a power of two, got {getattr(tile, name)}")
        return tile
