"""W4A8-int8 layers: the oracle, and vLLM's module-level functions on this machine."""

from __future__ import annotations

from typing import Any

from moe_rules.oracles import provider
from moe_rules.oracles.backends import W4A8Int8MoeBackend
from moe_rules.oracles.base import Key, Layer, MoEKernelOracle, the_layer
from moe_rules.vocabulary.fact_values import FactValue


class W4A8Int8MoEKernelOracle(MoEKernelOracle[W4A8Int8MoeBackend]):
    """Oracle of layers with int4 weights and int8 activations."""

    name = "w4a8_int8"

    def backend_enum_cls(self) -> type[W4A8Int8MoeBackend]:
        """Return the Enum of this oracle's backends."""
        return W4A8Int8MoeBackend


_oracle = W4A8Int8MoEKernelOracle()
map_w4a8_int8_backend = _oracle.map_backend
backend_to_kernel_cls = _oracle.backend_to_kernel_cls
convert_to_w4a8_int8_moe_format = provider.either(
    "oracle.w4a8_int8:convert_to_w4a8_int8_moe_format", _oracle.convert_to_kernel_format
)
make_w4a8_int8_moe_quant_config = provider.either(
    "oracle.w4a8_int8:make_w4a8_int8_moe_quant_config", _oracle.make_quant_config
)
make_w4a8_int8_moe_kernel = provider.either(
    "oracle.w4a8_int8:make_w4a8_int8_moe_kernel", _oracle.make_kernel
)


def select_w4a8_int8_moe_backend(
    config: Layer = None,
    weight_key: Key = None,
    activation_key: Key = None,
    *,
    moe_config: Layer = None,
    **facts: FactValue,
) -> tuple[Any, type | None]:
    """As ``select_backend`` of the oracle; ``moe_config`` is another name of ``config``."""
    layer = the_layer(config, moe_config)
    return _oracle.select_backend(layer, weight_key, activation_key, **facts)
