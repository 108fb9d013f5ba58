"""Unquantized layers: the oracle, and vLLM's module-level functions on this machine."""

from __future__ import annotations

from enum import Enum
from typing import Any

from moe_rules.oracles import provider
from moe_rules.oracles.backends import UnquantizedMoeBackend
from moe_rules.oracles.base import Layer, MoEKernelOracle, the_layer
from moe_rules.vocabulary.fact_values import FactValue


class UnquantizedMoEKernelOracle(MoEKernelOracle[UnquantizedMoeBackend]):
    """Oracle of layers with bf16, fp16 or fp32 weights."""

    name = "unquantized"

    def backend_enum_cls(self) -> type[UnquantizedMoeBackend]:
        """Return the Enum of this oracle's backends."""
        return UnquantizedMoeBackend


_oracle = UnquantizedMoEKernelOracle()
map_unquantized_backend = _oracle.map_backend
backend_to_kernel_cls = _oracle.backend_to_kernel_cls
convert_to_unquantized_kernel_format = provider.either(
    "oracle.unquantized:convert_to_unquantized_kernel_format", _oracle.convert_to_kernel_format
)
make_unquantized_moe_kernel = provider.either(
    "oracle.unquantized:make_unquantized_moe_kernel", _oracle.make_kernel
)


def select_unquantized_moe_backend(
    moe_config: Layer = None, *, config: Layer = None, **facts: FactValue
) -> tuple[Any, type | None]:
    """As ``select_backend`` of the oracle; ``config`` is another name of ``moe_config``."""
    return _oracle.select_backend(the_layer(config, moe_config), **facts)


def unquantized_round_up_hidden_size_and_intermediate_size(
    backend: Enum, hidden_size: int, intermediate_size: int
) -> tuple[int, int]:
    """The sizes, in elements, that vLLM allocates for a backend's kernels; vLLM computes them.

    Kernels of this package take the sizes as they are. Raises ImportError without vLLM.
    """
    sizes: tuple[int, int] = provider.ask(
        "oracle.unquantized:unquantized_round_up_hidden_size_and_intermediate_size",
        backend=backend,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
    )
    return sizes
