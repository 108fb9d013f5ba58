"""FP8 layers: the oracle, and vLLM's module-level functions on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe_rules.oracles.backends import Fp8MoeBackend
from moe_rules.oracles.base import MoEKernelOracle
from moe_rules.vocabulary.fact_values import FactValue
from moe_rules.vocabulary.layer import FusedMoEConfig
from moe_rules.vocabulary.quant_keys import QuantKey

if TYPE_CHECKING:
    from moe_kernels.modular_kernel import FusedMoEExperts


class Fp8MoEKernelOracle(MoEKernelOracle[Fp8MoeBackend]):
    """Oracle of layers with FP8 weights, scaled by tensor, channel or block."""

    name = "fp8"

    def backend_enum_cls(self) -> type[Fp8MoeBackend]:
        """Return the Enum of this oracle's backends."""
        return Fp8MoeBackend

    def select_backend(
        self,
        moe_config: FusedMoEConfig,
        weight_key: QuantKey | None = None,
        activation_key: QuantKey | None = None,
        allow_vllm_cutlass: FactValue = False,
        **others: FactValue,
    ) -> tuple[Fp8MoeBackend, type[FusedMoEExperts] | None]:
        """As the base class; ``allow_vllm_cutlass``: weights are ready for vLLM's CUTLASS."""
        return super().select_backend(
            moe_config,
            weight_key,
            activation_key,
            allow_vllm_cutlass=allow_vllm_cutlass,
            **others,
        )


_oracle = Fp8MoEKernelOracle()
select_fp8_moe_backend = _oracle.select_backend
map_fp8_backend = _oracle.map_backend
backend_to_kernel_cls = _oracle.backend_to_kernel_cls
convert_to_fp8_moe_kernel_format = _oracle.convert_to_kernel_format
make_fp8_moe_quant_config = _oracle.make_quant_config
make_fp8_moe_kernel = _oracle.make_kernel
