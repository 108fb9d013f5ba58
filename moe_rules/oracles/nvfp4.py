"""NVFP4 layers: the oracle, and vLLM's module-level functions on this machine."""

from __future__ import annotations

from enum import Enum
from typing import Any

from moe_rules.oracles import provider
from moe_rules.oracles.backends import BackendGroup, NvFp4MoeBackend
from moe_rules.oracles.base import Key, Layer, MoEKernelOracle, the_layer
from moe_rules.vocabulary.fact_values import FactValue

_GLOBAL_SCALES = BackendGroup(
    NvFp4MoeBackend.FLASHINFER_TRTLLM,
    NvFp4MoeBackend.FLASHINFER_CUTLASS,
    NvFp4MoeBackend.FLASHINFER_CUTEDSL,
    NvFp4MoeBackend.FLASHINFER_CUTEDSL_BATCHED,
    NvFp4MoeBackend.FLASHINFER_B12X,
)


class NvFp4MoEKernelOracle(MoEKernelOracle[NvFp4MoeBackend]):
    """Oracle of layers with NVFP4 weights."""

    name = "nvfp4"

    def backend_enum_cls(self) -> type[NvFp4MoeBackend]:
        """Return the Enum of this oracle's backends."""
        return NvFp4MoeBackend


_oracle = NvFp4MoEKernelOracle()
map_nvfp4_backend = _oracle.map_backend
backend_to_kernel_cls = _oracle.backend_to_kernel_cls
convert_to_nvfp4_moe_kernel_format = provider.either(
    "oracle.nvfp4:convert_to_nvfp4_moe_kernel_format", _oracle.convert_to_kernel_format
)
make_nvfp4_moe_quant_config = provider.either(
    "oracle.nvfp4:make_nvfp4_moe_quant_config", _oracle.make_quant_config
)
make_nvfp4_moe_kernel = provider.either("oracle.nvfp4:make_nvfp4_moe_kernel", _oracle.make_kernel)


def select_nvfp4_moe_backend(
    config: Layer = None,
    weight_key: Key = None,
    activation_key: Key = None,
    *,
    moe_config: Layer = None,
    **facts: FactValue,
) -> tuple[Any, type | None]:
    """As ``select_backend`` of the oracle; ``moe_config`` is another name of ``config``."""
    layer = the_layer(config, moe_config)
    return _oracle.select_backend(layer, weight_key, activation_key, **facts)


def is_global_sf_supported_for_nvfp4_backend(backend: Enum) -> bool:
    """Whether a backend's kernels take one input scale for the experts of all ranks."""
    return backend in _GLOBAL_SCALES
