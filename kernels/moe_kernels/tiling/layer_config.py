"""The tilings that a layer takes: those measured for it, else those of the rules of thumb."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from moe_kernels.tensor_spec import TensorSpec
from moe_kernels.tiling.rules_of_thumb import rules_of_thumb
from moe_kernels.tiling.tile_config import FEW_ROWS, LayerConfig
from moe_kernels.tiling.tuned_configs import LayerKey, forget, measured_config, scheme_name


def layer_config(
    num_local_pairs: float,
    w13: TensorSpec,
    w2: TensorSpec,
    block_shape: tuple[int, int] | None = None,
    *,
    weight_format: str | None = None,
    dtype: torch.dtype = torch.bfloat16,
    few_rows: int = 0,
) -> LayerConfig:
    """Tilings for so many pairs spread evenly over the experts of w13 [E, 2I, H], w2 [E, H, I].

    For those who ask again and again: ``tuned_configs.kept_while_tilings_hold``.

    ``num_local_pairs`` counts the pairs of these experts, as far as known without a look at the
    routing. ``block_shape``: of scales that are applied within the products.
    ``weight_format``: of weights that are dequantized to ``dtype`` as they are loaded.
    ``few_rows``: how many experts the program for few rows sums over in the second GEMM, 1 where it
    does not; 0: there is none, and no tiling of FEW_ROWS is returned. Raises TunedConfigError the
    first time that a file of measured tilings is wrong.
    """
    scheme = scheme_name(w13.dtype, block_shape, weight_format, dtype)
    layer = LayerKey(scheme, w13.shape[0], w13.shape[1], w2.shape[1])
    if _trial is None:
        measured = measured_config(w13.device, layer, num_local_pairs)
        if measured is not None and _exists(measured, few_rows):
            return measured
    config = rules_of_thumb(num_local_pairs, w13, w2, block_shape, weight_format, dtype, few_rows)
    if _trial is None:
        return config
    _trial.asked.append(Asked(layer, num_local_pairs, config))
    tried = _trial.config
    return tried if tried is not None and _exists(tried, few_rows) else config


def _exists(config: LayerConfig, few_rows: int) -> bool:
    return few_rows > 0 or config.up.block_m != FEW_ROWS


class Asked(NamedTuple):
    """A layer that asked for its tilings during a trial, and what the rules of thumb give it."""

    layer: LayerKey
    pairs: float
    config: LayerConfig


class _Trial(NamedTuple):
    config: LayerConfig | None
    asked: list[Asked]


_trial: _Trial | None = None


@contextmanager
def trial(config: LayerConfig | None) -> Iterator[list[Asked]]:
    """Within, every layer takes ``config``, or what the rules of thumb give, never a file's.

    Gives the list of what was asked for. Not for several threads.
    """
    global _trial
    before = _trial
    _trial = _Trial(config, [])
    forget()
    try:
        yield _trial.asked
    finally:
        _trial = before
        forget()
