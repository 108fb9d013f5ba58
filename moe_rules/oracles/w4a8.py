"""W4A8 layers: the oracle, and vLLM's module-level functions on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe_rules.oracles.backends import W4A8MoeBackend
from moe_rules.oracles.base import MoEKernelOracle
from moe_rules.vocabulary.fact_values import FactValue
from moe_rules.vocabulary.layer import FusedMoEConfig
from moe_rules.vocabulary.quant_keys import NAMED_KEYS, QuantKey

if TYPE_CHECKING:
    from moe_kernels.modular_kernel import FusedMoEExperts


class W4A8MoEKernelOracle(MoEKernelOracle[W4A8MoeBackend]):
    """Oracle of layers with int4 weights and FP8 activations."""

    name = "w4a8"

    def backend_enum_cls(self) -> type[W4A8MoeBackend]:
        """Return the Enum of this oracle's backends."""
        return W4A8MoeBackend

    def select_backend(
        self,
        moe_config: FusedMoEConfig,
        weight_key: QuantKey | None = NAMED_KEYS["kInt4Static"],
        activation_key: QuantKey | None = NAMED_KEYS["kFp8DynamicTokenSym"],
        **others: FactValue,
    ) -> tuple[W4A8MoeBackend, type[FusedMoEExperts] | None]:
        """As the base class, with the keys of this oracle's usual checkpoints as defaults."""
        return super().select_backend(moe_config, weight_key, activation_key, **others)


_oracle = W4A8MoEKernelOracle()
select_w4a8_moe_backend = _oracle.select_backend
map_w4a8_backend = _oracle.map_backend
backend_to_kernel_cls = _oracle.backend_to_kernel_cls
convert_to_w4a8_moe_kernel_format = _oracle.convert_to_kernel_format
make_w4a8_moe_quant_config = _oracle.make_quant_config
make_w4a8_moe_kernel = _oracle.make_kernel
