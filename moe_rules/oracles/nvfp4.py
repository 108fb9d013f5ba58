"""NVFP4 layers: the oracle, and vLLM's module-level functions on this machine."""

from __future__ import annotations

from moe_rules.oracles.backends import NvFp4MoeBackend
from moe_rules.oracles.base import MoEKernelOracle


class NvFp4MoEKernelOracle(MoEKernelOracle[NvFp4MoeBackend]):
    """Oracle of layers with NVFP4 weights."""

    name = "nvfp4"

    def backend_enum_cls(self) -> type[NvFp4MoeBackend]:
        """Return the Enum of this oracle's backends."""
        return NvFp4MoeBackend


_oracle = NvFp4MoEKernelOracle()
select_nvfp4_moe_backend = _oracle.select_backend
map_nvfp4_backend = _oracle.map_backend
backend_to_kernel_cls = _oracle.backend_to_kernel_cls
convert_to_nvfp4_moe_kernel_format = _oracle.convert_to_kernel_format
make_nvfp4_moe_quant_config = _oracle.make_quant_config
make_nvfp4_moe_kernel = _oracle.make_kernel
