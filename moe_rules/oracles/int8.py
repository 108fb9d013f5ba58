"""Int8 layers: the oracle, and vLLM's module-level functions on this machine."""

from __future__ import annotations

from typing import Any

from moe_rules.oracles import provider
from moe_rules.oracles.backends import Int8MoeBackend
from moe_rules.oracles.base import USUAL, Key, Layer, MoEKernelOracle, the_layer
from moe_rules.vocabulary.fact_values import FactValue


class Int8MoEKernelOracle(MoEKernelOracle[Int8MoeBackend]):
    """Oracle of layers with int8 weights and activations."""

    name = "int8"
    usual_keys = ("kInt8StaticChannelSym", "kInt8DynamicTokenSym")

    def backend_enum_cls(self) -> type[Int8MoeBackend]:
        """Return the Enum of this oracle's backends."""
        return Int8MoeBackend


_oracle = Int8MoEKernelOracle()
map_int8_backend = _oracle.map_backend
backend_to_kernel_cls = _oracle.backend_to_kernel_cls
convert_to_int8_moe_kernel_format = provider.either(
    "oracle.int8:convert_to_int8_moe_kernel_format", _oracle.convert_to_kernel_format
)
make_int8_moe_quant_config = provider.either(
    "oracle.int8:make_int8_moe_quant_config", _oracle.make_quant_config
)
make_int8_moe_kernel = provider.either("oracle.int8:make_int8_moe_kernel", _oracle.make_kernel)


def select_int8_moe_backend(
    config: Layer = None,
    weight_key: Key = USUAL,
    activation_key: Key = USUAL,
    *,
    moe_config: Layer = None,
    **facts: FactValue,
) -> tuple[Any, type | None]:
    """As ``select_backend`` of the oracle; ``moe_config`` is another name of ``config``."""
    layer = the_layer(config, moe_config)
    return _oracle.select_backend(layer, weight_key, activation_key, **facts)
