"""int_wna16 layers: the oracle, and vLLM's module-level functions on this machine."""

from __future__ import annotations

from moe_rules.oracles.backends import WNA16MoEBackend
from moe_rules.oracles.base import MoEKernelOracle


class WNA16MoEKernelOracle(MoEKernelOracle[WNA16MoEBackend]):
    """Oracle of layers with integer weights and 16-bit activations."""

    name = "int_wna16"

    def backend_enum_cls(self) -> type[WNA16MoEBackend]:
        """Return the Enum of this oracle's backends."""
        return WNA16MoEBackend


_oracle = WNA16MoEKernelOracle()
select_wna16_moe_backend = _oracle.select_backend
map_wna16_backend = _oracle.map_backend
backend_to_kernel_cls = _oracle.backend_to_kernel_cls
convert_to_wna16_moe_kernel_format = _oracle.convert_to_kernel_format
make_wna16_moe_quant_config = _oracle.make_quant_config
make_wna16_moe_kernel = _oracle.make_kernel
