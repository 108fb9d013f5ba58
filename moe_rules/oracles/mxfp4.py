"""MXFP4 layers: the two oracles, and vLLM's module-level functions on this machine."""

from __future__ import annotations

from enum import Enum
from typing import Any

from moe_rules.oracles import provider
from moe_rules.oracles.backends import BackendGroup, Mxfp4MoeBackend
from moe_rules.oracles.base import Key, Layer, MoEKernelOracle, the_layer
from moe_rules.vocabulary.fact_values import FactValue

TRITON_BACKENDS = BackendGroup(
    Mxfp4MoeBackend.TRITON,
    Mxfp4MoeBackend.TRITON_UNFUSED,
    Mxfp4MoeBackend.AITER_TRITON_MXFP4_BF16,
)
"""Backends that take weights in the format of OpenAI's triton_kernels."""
B12X_BACKENDS = BackendGroup(Mxfp4MoeBackend.B12X_MXFP4_MXFP8, Mxfp4MoeBackend.B12X_MXFP4_BF16)
FLASHINFER_MOE_EP_MXFP4_BACKENDS = BackendGroup(
    Mxfp4MoeBackend.FLASHINFER_MOE_EP_CUTEDSL, Mxfp4MoeBackend.FLASHINFER_MOE_EP_DEEP_GEMM
)
"""Megakernels, which take the checkpoint's tensors as they are."""


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
map_mxfp4_backend = _oracle.map_backends
backend_to_kernel_cls = _oracle.backend_to_kernel_cls
convert_weight_to_mxfp4_moe_kernel_format = provider.either(
    "oracle.mxfp4:convert_weight_to_mxfp4_moe_kernel_format", _oracle.convert_to_kernel_format
)
convert_gpt_oss_weight_to_mxfp4_moe_kernel_format = provider.either(
    "oracle.mxfp4:convert_gpt_oss_weight_to_mxfp4_moe_kernel_format",
    _oracle.convert_to_kernel_format,
)
make_mxfp4_moe_quant_config = provider.either(
    "oracle.mxfp4:make_mxfp4_moe_quant_config", _oracle.make_quant_config
)
make_mxfp4_moe_kernel = provider.either("oracle.mxfp4:make_mxfp4_moe_kernel", _oracle.make_kernel)


def select_mxfp4_moe_backend(
    config: Layer = None,
    activation_key: Key = None,
    *,
    moe_config: Layer = None,
    weight_key: Key = None,
    **facts: FactValue,
) -> tuple[Any, type | None]:
    """As ``select_backend`` of the oracle; ``moe_config`` is another name of ``config``."""
    layer = the_layer(config, moe_config)
    return _oracle.select_backend(layer, weight_key, activation_key, **facts)


def select_deepseek_v4_mxfp4_moe_backend(
    config: Layer = None,
    *,
    moe_config: Layer = None,
    weight_key: Key = None,
    activation_key: Key = None,
    **facts: FactValue,
) -> tuple[Any, type | None]:
    """As ``select_backend`` of the oracle; ``moe_config`` is another name of ``config``."""
    layer = the_layer(config, moe_config)
    return _deepseek_v4.select_backend(layer, weight_key, activation_key, **facts)


def mxfp4_round_up_hidden_size_and_intermediate_size(
    backend: Enum, hidden_size: int, intermediate_size: int, activation: Any = None
) -> tuple[int, int]:
    """The sizes, in elements, that vLLM allocates for a backend's kernels; vLLM computes them.

    ``activation`` is vLLM's MoEActivation or None. Kernels of this package take the sizes as they
    are. Raises ImportError without vLLM.
    """
    sizes: tuple[int, int] = provider.ask(
        "oracle.mxfp4:mxfp4_round_up_hidden_size_and_intermediate_size",
        backend=backend,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        activation=activation,
    )
    return sizes
