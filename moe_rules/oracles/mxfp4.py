"""MXFP4 layers: the two oracles, and vLLM's module-level functions on this machine."""

from __future__ import annotations

from moe_rules.oracles.backends import Mxfp4MoeBackend
from moe_rules.oracles.base import MoEKernelOracle


class Mxfp4MoEKernelOracle(MoEKernelOracle[Mxfp4MoeBackend]):
    """Oracle of layers with MXFP4 weights; the activation key picks the variant."""

    name = "mxfp4"

    def backend_enum_cls(self) -> type[Mxfp4MoeBackend]:
        """Return the Enum of this oracle's backends."""
        return Mxfp4MoeBackend


class DeepSeekV4Mxfp4MoEKernelOracle(Mxfp4MoEKernelOracle):
    """Oracle of DeepSeek-V4's MXFP4 layers, which prefers quantized activations."""

    name = "mxfp4_deepseek_v4"


_oracle = Mxfp4MoEKernelOracle()
_deepseek_v4 = DeepSeekV4Mxfp4MoEKernelOracle()
select_mxfp4_moe_backend = _oracle.select_backend
select_deepseek_v4_mxfp4_moe_backend = _deepseek_v4.select_backend
map_mxfp4_backend = _oracle.map_backends
backend_to_kernel_cls = _oracle.backend_to_kernel_cls
convert_weight_to_mxfp4_moe_kernel_format = _oracle.convert_to_kernel_format
convert_gpt_oss_weight_to_mxfp4_moe_kernel_format = _oracle.convert_to_kernel_format
make_mxfp4_moe_quant_config = _oracle.make_quant_config
make_mxfp4_moe_kernel = _oracle.make_kernel
