"""What is tuned: layers with the kernels that may run them, and their random weights and tokens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from moe_kernels.benchmark.layers import draw_routing
from moe_kernels.benchmark.peers import converted
from moe_kernels.benchmark.shapes import Scheme, Shape
from moe_kernels.modular_kernel import FusedMoEKernel
from moe_kernels.reference import relative_error
from moe_kernels.registry.bind import bind
from moe_kernels.testing import RandomLayer, random_layer
from moe_rules.vocabulary.layer import FusedMoEConfig
from moe_rules.vocabulary.quant_keys import QuantKey

CHECKED_TOKENS = 48
"""With so many tokens a contender's result is compared with the reference before it is timed."""


@dataclass(frozen=True)
class Contender:
    """One kernel that may run a layer, by backend and class name, and the keys it does so with."""

    backend: str
    kernel: str
    weight_key: QuantKey | None = None
    activation_key: QuantKey | None = None
    oracle: str | None = None
    group_size: int | None = None
    """Of integer weights whose key covers whole rows."""


@dataclass(frozen=True)
class TuneLayer:
    """A layer as one rank has it, and its contenders in the order in which rules try them."""

    config: FusedMoEConfig
    contenders: tuple[Contender, ...]

    @property
    def load_per_token(self) -> float:
        """Pairs of a local expert for each token, on average."""
        return self.config.experts_per_token / self.config.num_experts

    def __str__(self) -> str:
        """Everything that times depend on, in a line; measurements are filed under it."""
        c = self.config
        words = [f"E{c.num_experts}", f"k{c.experts_per_token}", f"H{c.hidden_dim}"]
        words += [f"I{c.intermediate_size_per_partition}", c.in_dtype, c.activation]
        ep_size = c.moe_parallel_config.ep_size
        words += [f"EP{ep_size}"] if ep_size > 1 else []
        words += ["bias"] if c.has_bias else []
        first = self.contenders[0]
        words += [str(key) for key in (first.weight_key, first.activation_key) if key is not None]
        words += [f"groups of {first.group_size}"] if first.group_size is not None else []
        return " ".join(words)


def named_layers(shapes: Iterable[Shape], schemes: Iterable[Scheme]) -> list[TuneLayer]:
    """The layers of every shape in every scheme that takes it, with our kernel of the scheme."""
    shapes = list(shapes)
    return [
        TuneLayer(
            shape.moe_config(scheme.in_dtype),
            (
                Contender(
                    scheme.kernel,
                    scheme.kernel,
                    scheme.weight_key,
                    scheme.activation_key,
                    group_size=scheme.group_size,
                ),
            ),
        )
        for scheme in schemes
        for shape in shapes
        if scheme.takes(shape)
    ]


def draw(config: FusedMoEConfig, contender: Contender, device: str, seed: int) -> RandomLayer:
    """A layer with random weights, quantized for a contender but not converted; one token.

    Raises ValueError as :func:`moe_kernels.testing.random_layer`.
    """
    keys = contender.weight_key, contender.activation_key
    return random_layer(config, *keys, 1, device, seed, group_size=contender.group_size)


@dataclass(frozen=True)
class Loaded:
    """A contender with a layer whose weights are converted for it."""

    contender: Contender
    layer: RandomLayer
    kernel: FusedMoEKernel

    def __call__(self, tokens: RandomLayer) -> torch.Tensor:
        """Run the layer on tokens of :func:`with_tokens`."""
        return self.kernel.apply(**tokens.arguments())


def load(config: FusedMoEConfig, contender: Contender, device: str, seed: int) -> Loaded:
    """Draw, convert and check a layer for one contender.

    Raises ValueError if the kernel does not run such layers, or computes something else;
    KernelUnavailableError if it cannot be had.
    """
    drawn = draw(config, contender, device, seed)
    own = converted(drawn, contender.kernel)
    kernel = bind(contender.kernel, config, own.quant_config, oracle=contender.oracle)
    loaded = Loaded(contender, own, kernel)
    (sample,) = with_tokens(drawn, CHECKED_TOKENS, "uniform", 1, seed)
    expected = sample.reference(kernel, dtype=torch.float32)
    error = relative_error(
        loaded(replace(sample, w13=own.w13, w2=own.w2, quant_config=own.quant_config)), expected
    )
    bound = drawn.error_bound(kernel)
    if not error <= bound:
        raise ValueError(f"its relative error is {error:.1e}, above the bound of {bound:.1e}")
    return loaded


def with_tokens(
    layer: RandomLayer, num_tokens: int, routing: str, count: int, seed: int
) -> list[RandomLayer]:
    """``count`` fresh sets of tokens and routings for the weights of ``layer``."""
    config, device = layer.moe_config, layer.w13.device
    shape = Shape(
        config.num_experts,
        config.experts_per_token,
        config.hidden_dim,
        config.intermediate_size_per_partition,
    )
    generator = torch.Generator(device).manual_seed(seed)
    inputs = []
    for _ in range(count):
        tokens = layer.hidden_states.new_empty(num_tokens, config.hidden_dim)
        topk_weights, topk_ids = draw_routing(shape, num_tokens, routing, generator)
        inputs.append(
            replace(
                layer,
                hidden_states=tokens.normal_(generator=generator),
                topk_weights=topk_weights,
                topk_ids=topk_ids,
            )
        )
    return inputs
