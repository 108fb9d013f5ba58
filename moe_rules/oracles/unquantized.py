"""Unquantized layers: the oracle, and vLLM's module-level functions on this machine."""

from __future__ import annotations

from moe_rules.oracles.backends import UnquantizedMoeBackend
from moe_rules.oracles.base import MoEKernelOracle


class UnquantizedMoEKernelOracle(MoEKernelOracle[UnquantizedMoeBackend]):
    """Oracle of layers with bf16, fp16 or fp32 weights."""

    name = "unquantized"

    def backend_enum_cls(self) -> type[UnquantizedMoeBackend]:
        """Return the Enum of this oracle's backends."""
        return UnquantizedMoeBackend


_oracle = UnquantizedMoEKernelOracle()
select_unquantized_moe_backend = _oracle.select_backend
map_unquantized_backend = _oracle.map_backend
backend_to_kernel_cls = _oracle.backend_to_kernel_cls
convert_to_unquantized_kernel_format = _oracle.convert_to_kernel_format
make_unquantized_moe_kernel = _oracle.make_kernel
