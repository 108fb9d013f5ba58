"""FP8 layers: the oracle, and vLLM's module-level functions on this machine."""

from __future__ import annotations

from typing import Any

from moe_rules.oracles import provider
from moe_rules.oracles.backends import Fp8MoeBackend
from moe_rules.oracles.base import USUAL, Key, Layer, MoEKernelOracle, the_layer
from moe_rules.vocabulary.fact_values import FactValue


class Fp8MoEKernelOracle(MoEKernelOracle[Fp8MoeBackend]):
    """Oracle of layers with FP8 weights, scaled by tensor, channel or block."""

    name = "fp8"

    def backend_enum_cls(self) -> type[Fp8MoeBackend]:
        """Return the Enum of this oracle's backends."""
        return Fp8MoeBackend

    def select_backend(
        self,
        moe_config: Layer,
        weight_key: Key = USUAL,
        activation_key: Key = USUAL,
        allow_vllm_cutlass: FactValue = False,
        **others: FactValue,
    ) -> tuple[Any, type | None]:
        """As the base class; ``allow_vllm_cutlass``: weights are ready for vLLM's CUTLASS."""
        return super().select_backend(
            moe_config,
            weight_key,
            activation_key,
            allow_vllm_cutlass=allow_vllm_cutlass,
            **others,
        )


_oracle = Fp8MoEKernelOracle()
map_fp8_backend = _oracle.map_backend
backend_to_kernel_cls = _oracle.backend_to_kernel_cls
convert_to_fp8_moe_kernel_format = provider.either(
    "oracle.fp8:convert_to_fp8_moe_kernel_format", _oracle.convert_to_kernel_format
)
make_fp8_moe_quant_config = provider.either(
    "oracle.fp8:make_fp8_moe_quant_config", _oracle.make_quant_config
)
make_fp8_moe_kernel = provider.either("oracle.fp8:make_fp8_moe_kernel", _oracle.make_kernel)


def select_fp8_moe_backend(
    config: Layer = None,
    weight_key: Key = None,
    activation_key: Key = None,
    allow_vllm_cutlass: FactValue = False,
    *,
    moe_config: Layer = None,
    **facts: FactValue,
) -> tuple[Any, type | None]:
    """As ``select_backend`` of the oracle; ``moe_config`` is another name of ``config``."""
    layer = the_layer(config, moe_config)
    return _oracle.select_backend(layer, weight_key, activation_key, allow_vllm_cutlass, **facts)


def resolve_fp8_moe_weight_block_shape(
    config: Layer,
    weight_block_size: list[int],
    activation_key: Key,
    is_checkpoint_fp8_serialized: bool,
) -> tuple[list[int], tuple[int, int] | None]:
    """How vLLM's shards adapt to scales in blocks: block shape, and factors of refinement.

    ``config`` and ``activation_key`` are vLLM's, and vLLM answers; it may pad ``config``.
    Raises TypeError for a layer of this package, whose kernels take shards as they are.
    """
    provider.require_vllms(config)
    shapes: tuple[list[int], tuple[int, int] | None] = provider.ask(
        "oracle.fp8:resolve_fp8_moe_weight_block_shape",
        config=config,
        weight_block_size=weight_block_size,
        activation_key=activation_key,
        is_checkpoint_fp8_serialized=is_checkpoint_fp8_serialized,
    )
    return shapes
