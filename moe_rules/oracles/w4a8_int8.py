"""W4A8-int8 layers: the oracle, and vLLM's module-level functions on this machine."""

from __future__ import annotations

from moe_rules.oracles.backends import W4A8Int8MoeBackend
from moe_rules.oracles.base import MoEKernelOracle


class W4A8Int8MoEKernelOracle(MoEKernelOracle[W4A8Int8MoeBackend]):
    """Oracle of layers with int4 weights and int8 activations."""

    name = "w4a8_int8"

    def backend_enum_cls(self) -> type[W4A8Int8MoeBackend]:
        """Return the Enum of this oracle's backends."""
        return W4A8Int8MoeBackend


_oracle = W4A8Int8MoEKernelOracle()
select_w4a8_int8_moe_backend = _oracle.select_backend
map_w4a8_int8_backend = _oracle.map_backend
backend_to_kernel_cls = _oracle.backend_to_kernel_cls
convert_to_w4a8_int8_moe_format = _oracle.convert_to_kernel_format
make_w4a8_int8_moe_quant_config = _oracle.make_quant_config
make_w4a8_int8_moe_kernel = _oracle.make_kernel
