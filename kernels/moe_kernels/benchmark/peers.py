"""What is measured: our kernels, and the alternatives by one small adapter each.

A module with adapters has ``PEERS``, a mapping from names to :class:`Peer`. Installed packages
announce theirs as entry points of the group ``moe_rules.peers`` ("name = module").
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import entry_points

import torch
import torch.nn.functional as F  # noqa: N812

from moe_kernels.activation import activation_parameters, apply_activation
from moe_kernels.layouts import LayerWeights, convert_to_kernel_format
from moe_kernels.registry.bind import bind
from moe_kernels.testing import RandomLayer

OURS = "moe_rules"
ENTRY_POINT_GROUP = "moe_rules.peers"

Run = Callable[[RandomLayer], torch.Tensor]
"""A layer's output, [M, H] in the dtype of its tokens."""
Adapter = Callable[[RandomLayer], Run | None]
"""From a layer to a function of its tokens; None: it does not run such layers."""


class PeerUnavailableError(Exception):
    """What a peer needs is not here. The message says what, and how to get it."""


@dataclass(frozen=True)
class Peer:
    """An alternative to our kernels."""

    bind: Adapter
    """Prepares weights as its users' are at load time. May raise PeerUnavailableError."""
    about: Callable[[], str]
    """Version, and what is not the peer's own. May raise PeerUnavailableError."""
    kernels: frozenset[str] = frozenset()
    """The kernels of the rules that it is, by their names there."""


def load_peers(modules: Iterable[str] = ()) -> dict[str, Peer]:
    """torch's, those of entry points, and those of ``modules``, by name.

    Raises PeerUnavailableError for a module that cannot be imported or has no such ``PEERS``.
    """
    found = dict(PEERS)
    for module in [*(entry.value for entry in entry_points(group=ENTRY_POINT_GROUP)), *modules]:
        try:
            peers: Mapping[str, Peer] = importlib.import_module(module).PEERS
        except (ImportError, AttributeError) as error:
            raise PeerUnavailableError(f"no peers in module {module!r}: {error}") from error
        if not isinstance(peers, Mapping) or not all(isinstance(p, Peer) for p in peers.values()):
            raise PeerUnavailableError(f"PEERS of {module!r} must map names to {__name__}.Peer")
        found.update(peers)
    return found


def converted(layer: RandomLayer, kernel_name: str) -> RandomLayer:
    """``layer`` with its weights as ``kernel_name`` has a checkpoint's after loading.

    Raises ValueError if there is no such conversion.
    """
    quant = layer.quant_config
    fields = {name: getattr(quant, name) for name in LayerWeights._fields if hasattr(quant, name)}
    weights = convert_to_kernel_format(
        kernel_name,
        LayerWeights(layer.w13, layer.w2, **fields),
        quant.weight_key,
        checkpoint_format="moe_wna16",  # the one in which random layers are drawn
        dtype=layer.hidden_states.dtype,
    )
    quant = type(quant)(
        activation_key=quant.activation_key,
        w13_bias=quant.w13_bias,
        w2_bias=quant.w2_bias,
        **weights.quant_fields(),
    )
    return replace(layer, w13=weights.w13, w2=weights.w2, quant_config=quant)


def bind_ours(layer: RandomLayer, kernel_name: str) -> Run:
    """Our kernel with the layer's weights converted as a checkpoint's are when it is loaded.

    Raises ValueError if the kernel does not execute the layer's scheme.
    """
    own = converted(layer, kernel_name)
    kernel = bind(kernel_name, layer.moe_config, own.quant_config)

    def run(tokens: RandomLayer) -> torch.Tensor:
        return kernel.apply(**tokens.arguments() | {"w13": own.w13, "w2": own.w2})

    return run


def grouped_mm(layer: RandomLayer) -> Run | None:
    """The grouped GEMM of torch between a sort and its inverse, as transformers runs experts."""
    multiply = getattr(F, "grouped_mm", None) or getattr(torch, "_grouped_mm", None)
    quant, moe = layer.quant_config, layer.moe_config
    if multiply is None or quant.weight_key is not None or layer.expert_map is not None:
        return None
    w13, w2 = layer.w13.transpose(1, 2), layer.w2.transpose(1, 2)
    num_experts = layer.w13.shape[0]
    parameters = activation_parameters(moe.activation, moe, quant)

    def run(tokens: RandomLayer) -> torch.Tensor:
        num_tokens, top_k = tokens.topk_ids.shape
        experts = tokens.topk_ids.flatten()
        order = torch.argsort(experts)
        inverse = torch.argsort(order)
        counts = torch.histc(experts.float(), bins=num_experts, min=0, max=num_experts - 1)
        offsets = counts.cumsum(0).to(torch.int32)
        up = multiply(tokens.hidden_states[order // top_k], w13, offs=offsets)
        if quant.w13_bias is not None:
            up = up + quant.w13_bias[experts[order]]
        down = multiply(apply_activation(up, moe.activation, parameters), w2, offs=offsets)
        if quant.w2_bias is not None:
            down = down + quant.w2_bias[experts[order]]
        weighted = down * tokens.topk_weights.flatten()[order, None]
        output: torch.Tensor = weighted[inverse].view(num_tokens, top_k, -1).sum(dim=1)
        return output.to(down.dtype)

    return run


PEERS: Mapping[str, Peer] = {
    "grouped_mm": Peer(grouped_mm, lambda: f"torch {torch.__version__}"),
}
"""What torch alone offers."""
