"""int_wna16 layers: the oracle, and vLLM's module-level functions on this machine."""

from __future__ import annotations

from typing import Any

from moe_rules.oracles import provider
from moe_rules.oracles.backends import WNA16MoEBackend
from moe_rules.oracles.base import Key, Layer, MoEKernelOracle, the_layer
from moe_rules.vocabulary.fact_values import FactValue


class WNA16MoEKernelOracle(MoEKernelOracle[WNA16MoEBackend]):
    """Oracle of layers with integer weights and 16-bit activations."""

    name = "int_wna16"

    def backend_enum_cls(self) -> type[WNA16MoEBackend]:
        """Return the Enum of this oracle's backends."""
        return WNA16MoEBackend


_oracle = WNA16MoEKernelOracle()
map_wna16_backend = _oracle.map_backend
backend_to_kernel_cls = _oracle.backend_to_kernel_cls
convert_to_wna16_moe_kernel_format = provider.either(
    "oracle.int_wna16:convert_to_wna16_moe_kernel_format", _oracle.convert_to_kernel_format
)
make_wna16_moe_quant_config = provider.either(
    "oracle.int_wna16:make_wna16_moe_quant_config", _oracle.make_quant_config
)
make_wna16_moe_kernel = provider.either(
    "oracle.int_wna16:make_wna16_moe_kernel", _oracle.make_kernel
)


def select_wna16_moe_backend(
    config: Layer = None,
    weight_key: Key = None,
    quant_config: Any = None,
    may_have_zp: FactValue = False,
    may_have_bias: FactValue = False,
    allow_tile_padding: FactValue = False,
    *,
    moe_config: Layer = None,
    **facts: FactValue,
) -> tuple[Any, type | None]:
    """As ``select_backend`` of the oracle; ``moe_config`` is another name of ``config``."""
    return _oracle.select_backend(
        the_layer(config, moe_config),
        weight_key,
        quant_config=quant_config,
        may_have_zp=may_have_zp,
        may_have_bias=may_have_bias,
        allow_tile_padding=allow_tile_padding,
        **facts,
    )
