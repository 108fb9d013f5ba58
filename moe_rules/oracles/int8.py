"""Int8 layers: the oracle, and vLLM's module-level functions on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe_rules.oracles.backends import Int8MoeBackend
from moe_rules.oracles.base import MoEKernelOracle
from moe_rules.vocabulary.fact_values import FactValue
from moe_rules.vocabulary.layer import FusedMoEConfig
from moe_rules.vocabulary.quant_keys import NAMED_KEYS, QuantKey

if TYPE_CHECKING:
    from moe_kernels.modular_kernel import FusedMoEExperts


class Int8MoEKernelOracle(MoEKernelOracle[Int8MoeBackend]):
    """Oracle of layers with int8 weights and activations."""

    name = "int8"

    def backend_enum_cls(self) -> type[Int8MoeBackend]:
        """Return the Enum of this oracle's backends."""
        return Int8MoeBackend

    def select_backend(
        self,
        moe_config: FusedMoEConfig,
        weight_key: QuantKey | None = NAMED_KEYS["kInt8StaticChannelSym"],
        activation_key: QuantKey | None = NAMED_KEYS["kInt8DynamicTokenSym"],
        **others: FactValue,
    ) -> tuple[Int8MoeBackend, type[FusedMoEExperts] | None]:
        """As the base class, with the keys of this oracle's usual checkpoints as defaults."""
        return super().select_backend(moe_config, weight_key, activation_key, **others)


_oracle = Int8MoEKernelOracle()
select_int8_moe_backend = _oracle.select_backend
map_int8_backend = _oracle.map_backend
backend_to_kernel_cls = _oracle.backend_to_kernel_cls
convert_to_int8_moe_kernel_format = _oracle.convert_to_kernel_format
make_int8_moe_quant_config = _oracle.make_quant_config
make_int8_moe_kernel = _oracle.make_kernel
