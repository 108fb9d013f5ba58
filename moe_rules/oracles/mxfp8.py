"""MXFP8 layers: the oracle, and vLLM's module-level functions on this machine."""

from __future__ import annotations

from moe_rules.oracles.backends import Fp8MoeBackend
from moe_rules.oracles.base import MoEKernelOracle


class Mxfp8MoEKernelOracle(MoEKernelOracle[Fp8MoeBackend]):
    """Oracle of layers with MXFP8 weights and activations."""

    name = "mxfp8"

    def backend_enum_cls(self) -> type[Fp8MoeBackend]:
        """Return the Enum of this oracle's backends."""
        return Fp8MoeBackend


_oracle = Mxfp8MoEKernelOracle()
select_mxfp8_moe_backend = _oracle.select_backend
map_mxfp8_backend = _oracle.map_backend
backend_to_kernel_cls = _oracle.backend_to_kernel_cls
convert_to_mxfp8_moe_kernel_format = _oracle.convert_to_kernel_format
make_mxfp8_moe_quant_config = _oracle.make_quant_config
make_mxfp8_moe_kernel = _oracle.make_kernel
