"""The kernels of ``moe_kernels`` as classes that vLLM runs.

``moe_rules.integrations.vllm.experts:TritonExperts`` in a rule file is
``moe_kernels``' class of that name in the form of vLLM's ``FusedMoEExperts``; the overlay
``moe_kernels`` binds those that vLLM can hand its weights to. The classes are made when they are
asked for, because their base is vLLM's. Tables have decided before one is made, so that its
questions about what it supports are all answered yes.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any, ClassVar

from moe_rules.oracles.vllm_objects import layer_facts
from moe_rules.vocabulary.layer import FusedMoEConfig, FusedMoEParallelConfig
from moe_rules.vocabulary.quant_keys import QuantKey

if TYPE_CHECKING:
    from moe_kernels.layouts import LayerWeights
    from moe_kernels.modular_kernel import FusedMoEExperts

FORMATS = (None, "fp8", "int8")
"""The formats of weights that vLLM's backends TRITON and CPU leave as checkpoints have them."""


def __getattr__(name: str) -> type:
    from moe_kernels.registry import our_names

    if name not in our_names():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return vllm_class(name)


@functools.cache
def vllm_class(kernel: str) -> type:
    """The kernel of ``moe_kernels`` that is called so, as a subclass of vLLM's FusedMoEExperts."""
    return type(f"MoeKernels{kernel}", (_base(),), {"kernel": kernel, "__module__": __name__})


@functools.cache
def _base() -> type:
    import torch
    from moe_kernels.layouts import convert_to_kernel_format
    from moe_kernels.modular_kernel import FusedMoEActivationFormat
    from moe_kernels.prepare_finalize.no_ep import MoEPrepareAndFinalizeNoEP
    from moe_kernels.quant_config import FusedMoEQuantConfig
    from moe_kernels.quantization.schemes import quantization_format
    from moe_kernels.registry import resolve
    from moe_kernels.routing import Routing
    from vllm.model_executor.layers.fused_moe import modular_kernel as mk
    from vllm.model_executor.layers.fused_moe.topk_weight_and_reduce import (
        TopKWeightAndReduceNoOP,
    )
    from vllm.model_executor.utils import replace_parameter

    def supports(*_: Any) -> bool:
        return True

    class MoeKernelsExperts(mk.FusedMoEExpertsModular):  # type: ignore[misc]
        """vLLM's side is its own; what is computed, and from which layout, is ``kernel``'s.

        Tokens come unquantized [M, H]; ``kernel`` quantizes, weighs and sums them.
        """

        kernel: ClassVar[str]
        weight_key: ClassVar[QuantKey | None] = None
        activation_key: ClassVar[QuantKey | None] = None

        _supports_current_device = staticmethod(supports)
        _supports_no_act_and_mul = staticmethod(supports)
        _supports_quant_scheme = staticmethod(supports)
        _supports_activation = staticmethod(supports)
        _supports_parallel_config = staticmethod(supports)

        @classmethod
        def for_keys(cls, weight_key: QuantKey | None, activation_key: QuantKey | None) -> type:
            """The class for layers quantized so. Raises ValueError for what vLLM repacks."""
            fmt = None if weight_key is None else quantization_format(weight_key)
            if fmt not in FORMATS:
                formats = ", ".join(f or "unquantized" for f in FORMATS)
                raise ValueError(
                    f"{cls.kernel} of moe_kernels runs in vLLM with weights {formats}, not "
                    f"{weight_key}, which vLLM lays out for its own kernels"
                )
            made: type = _of_keys(cls, weight_key, activation_key)
            return made

        def __init__(self, moe_config: Any, quant_config: Any) -> None:
            super().__init__(moe_config, quant_config)
            self._layer = our_layer(moe_config)
            self._loaded: tuple[FusedMoEExperts, LayerWeights] | None = None

        @staticmethod
        def activation_format() -> Any:
            return mk.FusedMoEActivationFormat.Standard

        @property
        def expects_unquantized_inputs(self) -> bool:
            return True

        def finalize_weight_and_reduce_impl(self) -> Any:
            return TopKWeightAndReduceNoOP()

        def workspace_shapes(
            self, num_tokens: int, _: int, hidden_dim: int, *__: Any
        ) -> tuple[tuple[int, ...], ...]:
            return (0,), (0,), (num_tokens, hidden_dim)

        def process_weights_after_loading(self, layer: Any) -> None:
            _, weights = self._load(layer.w13_weight.data, layer.w2_weight.data)
            replace_parameter(layer, "w13_weight", weights.w13)
            replace_parameter(layer, "w2_weight", weights.w2)

        def _load(self, w13: torch.Tensor, w2: torch.Tensor) -> tuple[Any, LayerWeights]:
            from moe_kernels.layouts import LayerWeights

            config = self.quant_config
            weights = convert_to_kernel_format(
                self.kernel,
                LayerWeights(
                    w13,
                    w2,
                    w13_scale=config.w1_scale,
                    w2_scale=config.w2_scale,
                    a13_scale=config.a1_scale,
                    a2_scale=config.a2_scale,
                ),
                self.weight_key,
                dtype=self.moe_config.in_dtype,
            )
            ours = FusedMoEQuantConfig(
                **weights.quant_fields(),
                activation_key=self.activation_key,
                w13_bias=config.w1_bias,
                w2_bias=config.w2_bias,
                swiglu_alpha=config.gemm1_alpha,
                swiglu_beta=config.gemm1_beta,
                swiglu_limit=config.gemm1_clamp_limit,
            )
            cls = resolve(self.kernel, provider="moe_kernels")
            experts = cls(self._layer, ours)
            assert experts.activation_format is FusedMoEActivationFormat.Standard
            self._loaded = experts, weights
            return self._loaded

        def apply(
            self,
            output: torch.Tensor,
            hidden_states: torch.Tensor,
            w1: torch.Tensor,
            w2: torch.Tensor,
            topk_weights: torch.Tensor,
            topk_ids: torch.Tensor,
            activation: Any,
            global_num_experts: int,
            expert_map: torch.Tensor | None,
            a1q_scale: torch.Tensor | None,
            a2_scale: torch.Tensor | None,
            workspace13: torch.Tensor,
            workspace2: torch.Tensor,
            expert_tokens_meta: Any,
            apply_router_weight_on_input: bool,
        ) -> None:
            # Some of vLLM's quantization methods never hand over the layer, only its weights.
            experts, weights = self._loaded or self._load(w1, w2)
            routing = Routing(topk_ids, global_num_experts, expert_map)
            # Where the input is weighed, vLLM's prepare has done it.
            weighing = None if apply_router_weight_on_input else topk_weights
            prepare = MoEPrepareAndFinalizeNoEP().prepare
            prepared = prepare(hidden_states, weighing, routing, experts, len(w1))
            output.copy_(experts.apply(prepared, weights.w13, weights.w2, activation.value))

    return MoeKernelsExperts


def our_layer(config: Any) -> FusedMoEConfig:
    """The configuration of a layer in this package's form."""
    facts: dict[str, Any] = layer_facts(config)
    names = [field.name for field in dataclasses.fields(FusedMoEParallelConfig)]
    parallel = FusedMoEParallelConfig(**{name: facts.pop(name) for name in names})
    return FusedMoEConfig(**facts, moe_parallel_config=parallel)


def _of_keys(cls: Any, weight_key: QuantKey | None, activation_key: QuantKey | None) -> type:
    keys = {"weight_key": weight_key, "activation_key": activation_key}
    return type(cls.__name__, (cls,), {**keys, "__module__": __name__})
