"""A MoE kernel in two parts: how tokens reach the experts and return, and what the experts do.

    hidden_states, topk -> [prepare] -> [experts] -> [finalize] -> output

:class:`FusedMoEPrepareAndFinalize` moves tokens (between ranks, where there are several),
:class:`FusedMoEExperts` computes; :class:`FusedMoEKernel` is one of each. The names are those of
vLLM's ``fused_moe/modular_kernel.py``. Unlike there, experts only execute: whether a kernel
suits a layer is decided by rules, before one is constructed.

A (token, expert) pair is computed if its id is the id of a local expert. One whose id is not
(negative, from global_num_experts on, or of an expert that expert_map puts at -1) contributes
nothing, whatever its weight or its token's row holds, NaN and infinity included; a token without
any other gets zeros, and does not count where one scale is taken over all tokens. An expert that a
token names several times counts each time. What is infinite in one token reaches no other, save
through such a scale.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import Enum
from typing import ClassVar, NamedTuple

import torch

from moe_kernels.activation import ActivationParameters, activation_form, activation_parameters
from moe_kernels.quant_config import FusedMoEQuantConfig
from moe_kernels.quantization.schemes import packing_ratio
from moe_kernels.routing import CustomRoutingFunction, Routing, route
from moe_rules.vocabulary.layer import FusedMoEConfig


class FusedMoEActivationFormat(Enum):
    """The layout of the tokens that experts take."""

    Standard = "standard"
    """[num_tokens, hidden_dim], with topk_ids that say which experts each token goes to."""
    BatchedExperts = "batched_experts"
    """[num_local_experts, max_tokens_per_expert, hidden_dim]."""


class Exchange(NamedTuple):
    """How the tokens of one call went to other ranks, which their way back depends on.

    num_tokens: M, this rank's. sent, received: how many rows there is room for to and from every
    rank, at most one per token. row_bytes: of each. token_rows: [M, places] int64, where in what
    returns the parts of each token are, beyond the rows that return for none; None: tokens return
    summed. lost: [M] bool, the tokens that were not sent to every expert; None: there are none.
    """

    num_tokens: int
    sent: list[int]
    received: list[int]
    row_bytes: int
    token_rows: torch.Tensor | None = None
    lost: torch.Tensor | None = None


class PrepareResult(NamedTuple):
    """What experts take: tokens in their format and dtype, their scales, and the routing.

    topk_weights: [M, topk]; None: the tokens are weighed already.
    In the batched format, expert_num_tokens: [num_local_experts] int32, how many rows of each
    expert hold tokens; batch_rows: [M, topk] int64, the row of hidden_states (its first two
    dimensions taken as one) that holds each pair, one row for all pairs of a token with one expert,
    or the number of rows for a pair that no local expert has.
    exchange: where tokens came from other ranks; all else is of the tokens that this rank received.
    unsummed: finalize weighs and sums, so that experts return every pair's row, [M * topk, H].
    """

    hidden_states: torch.Tensor
    hidden_states_scale: torch.Tensor | None
    topk_weights: torch.Tensor | None
    routing: Routing
    expert_num_tokens: torch.Tensor | None = None
    batch_rows: torch.Tensor | None = None
    exchange: Exchange | None = None
    unsummed: bool = False


class FusedMoEExperts(ABC):
    """Both expert GEMMs with the activation between them.

    Constructed once per layer; holds no per-call state. Subclasses say which activation format
    they take and implement :meth:`apply`; those that take quantized tokens implement
    :meth:`quantize_input`.
    """

    activation_format: ClassVar[FusedMoEActivationFormat] = FusedMoEActivationFormat.Standard
    quantizes_activations: ClassVar[bool] = True
    """Whether the scheme's activation key is carried out. Weight-only kernels say False."""
    takes_unquantized: ClassVar[bool] = False
    """Whether :meth:`apply` takes tokens as they are, too, and quantizes them itself."""
    can_leave_sum: ClassVar[bool] = False
    """Whether :meth:`apply` leaves the weighted sum to finalize where it is told so."""

    def __init__(self, moe_config: FusedMoEConfig, quant_config: FusedMoEQuantConfig) -> None:
        self.moe_config = moe_config
        self.quant_config = quant_config
        self.weight_format = quant_config.weight_format
        """The format of w13 and w2 as these experts take them; None: unquantized."""
        self._activation_parameters: dict[str, ActivationParameters] = {}

    def weight_columns(self, columns: int) -> int:
        """How many columns of w13 and w2, as these experts take them, hold so many values."""
        if self.weight_format is None:
            return columns
        values, per = packing_ratio(self.weight_format)
        return columns * per // values

    def activation_parameters(self, activation: str) -> ActivationParameters:
        """The constants of ``activation`` for this layer. Raises ValueError if one is missing."""
        found = self._activation_parameters.get(activation)
        if found is None:
            found = activation_parameters(activation, self.moe_config, self.quant_config)
            self._activation_parameters[activation] = found
        return found

    def quantize_input(
        self, hidden_states: torch.Tensor, routing: Routing
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """``hidden_states`` [M, H] as these experts take them, and their scales.

        Called by prepare, so that tokens can be quantized before they are sent to other ranks.
        ``routing``: of these tokens; of those without a local expert no scale may depend.
        """
        return hidden_states, None

    @abstractmethod
    def apply(
        self, prepared: PrepareResult, w13: torch.Tensor, w2: torch.Tensor, activation: str
    ) -> torch.Tensor:
        """The local experts' weighted sum for every token: [M, H] in the layer's dtype.

        ``w13``, ``w2`` and ``activation`` as in :meth:`FusedMoEKernel.apply`. Tokens without a
        local expert get zeros. Never synchronises host and device, and gives the same bits for the
        same input. In the batched format hidden_states are [E, max_tokens, H], of which the first
        ``expert_num_tokens`` [E] of each expert count, and so is the result, not yet weighted.
        Where ``prepared.unsummed``: [M * topk, H]; a pair without a local expert has any row.
        """


class FusedMoEExpertsMonolithic(FusedMoEExperts):
    """Experts that also choose each token's experts, from the router's logits.

    Given a routing they are like any others, so that one can be compared with another.
    """

    def route(
        self,
        hidden_states: torch.Tensor,
        router_logits: torch.Tensor,
        custom_routing_function: CustomRoutingFunction | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """topk_weights (float32) and topk_ids (int32), [M, topk], as the layer's routing says.

        Raises ValueError for a routing method that :func:`moe_kernels.routing.route` lacks, and
        unless ``custom_routing_function`` is there if and only if the method is Custom.
        """
        top_k, method = self.moe_config.experts_per_token, self.moe_config.routing_method
        if (custom_routing_function is not None) != (method == "Custom"):
            raise ValueError(
                f"routing method {method} takes "
                f"{'a' if method == 'Custom' else 'no'} custom_routing_function, got "
                f"{custom_routing_function!r}"
            )
        if custom_routing_function is None:
            return route(router_logits, top_k, method)
        topk_weights, topk_ids = custom_routing_function(hidden_states, router_logits, top_k)
        return topk_weights.float(), topk_ids.to(torch.int32)


class FusedMoEPrepareAndFinalize(ABC):
    """Brings tokens to the experts, and their results back."""

    activation_format: ClassVar[FusedMoEActivationFormat] = FusedMoEActivationFormat.Standard

    @abstractmethod
    def prepare(
        self,
        hidden_states: torch.Tensor,
        topk_weights: torch.Tensor | None,
        routing: Routing,
        experts: FusedMoEExperts,
        num_local_experts: int,
    ) -> PrepareResult:
        """Quantize as ``experts`` ask and dispatch.

        ``hidden_states`` and ``topk_weights`` as in :meth:`FusedMoEKernel.apply`, weights None
        where tokens are weighed already; ``num_local_experts`` are in ``w13``.
        """

    @abstractmethod
    def finalize(self, expert_output: torch.Tensor, prepared: PrepareResult) -> torch.Tensor:
        """Combine what the experts returned into [M, H], in the caller's token order.

        ``prepared``: what :meth:`prepare` returned for these tokens.
        """


class FusedMoEKernel:
    """A kernel ready to run one layer: a way to prepare and finalize, and experts."""

    def __init__(
        self, prepare_finalize: FusedMoEPrepareAndFinalize, experts: FusedMoEExperts
    ) -> None:
        if prepare_finalize.activation_format is not experts.activation_format:
            raise ValueError(
                f"{type(prepare_finalize).__name__} gives tokens in the "
                f"{prepare_finalize.activation_format.value} format, but "
                f"{type(experts).__name__} takes {experts.activation_format.value}"
            )
        self.prepare_finalize = prepare_finalize
        self.experts = experts

    def apply(
        self,
        hidden_states: torch.Tensor,
        w13: torch.Tensor,
        w2: torch.Tensor,
        topk_weights: torch.Tensor,
        topk_ids: torch.Tensor,
        *,
        activation: str,
        global_num_experts: int,
        expert_map: torch.Tensor | None = None,
        apply_router_weight_on_input: bool = False,
    ) -> torch.Tensor:
        """Run the layer.

        hidden_states: [M, H] in the layer's dtype, any strides.
        w13: [E, 2I, H] (gate rows, then up rows; swigluoai: interleaved; [E, I, H] without gate).
        w2: [E, H, I]. Both in the kernel's format (:mod:`moe_kernels.layouts`); one that packs
        values has fewer columns.
        topk_weights: [M, topk], floating. topk_ids: [M, topk], int32 or int64, global expert ids;
        which pairs are computed is said at the top of this module.
        expert_map: [global_num_experts] int32, the local index of each expert or -1 if it is on
        another rank; None: all experts are local, global_num_experts == E.
        apply_router_weight_on_input: weigh tokens before the experts (topk 1 only), not after.

        Returns [M, H] in the layer's dtype. Raises ValueError for arguments that do not fit
        together.
        """
        routing = Routing(topk_ids, global_num_experts, expert_map)
        check_arguments(
            hidden_states, w13, w2, topk_weights, routing, activation, self.experts.weight_columns
        )
        weights: torch.Tensor | None = topk_weights
        if apply_router_weight_on_input:
            hidden_states, weights = weigh_input(hidden_states, topk_weights), None
        prepared = self.prepare_finalize.prepare(
            hidden_states, weights, routing, self.experts, w13.shape[0]
        )
        expert_output = self.experts.apply(prepared, w13, w2, activation)
        return self.prepare_finalize.finalize(expert_output, prepared)

    def apply_monolithic(
        self,
        hidden_states: torch.Tensor,
        w13: torch.Tensor,
        w2: torch.Tensor,
        router_logits: torch.Tensor,
        *,
        activation: str,
        global_num_experts: int,
        expert_map: torch.Tensor | None = None,
        apply_router_weight_on_input: bool = False,
        custom_routing_function: CustomRoutingFunction | None = None,
    ) -> torch.Tensor:
        """Run the layer from ``router_logits`` [M, global_num_experts], any floating dtype.

        ``custom_routing_function``: the model's, of layers whose routing method is Custom.
        Otherwise as :meth:`apply`. Raises ValueError as that does, and for experts that do not
        route tokens themselves.
        """
        if not isinstance(self.experts, FusedMoEExpertsMonolithic):
            raise ValueError(
                f"{type(self.experts).__name__} takes topk_weights and topk_ids, not "
                "router_logits: use apply"
            )
        expected = [hidden_states.shape[0], global_num_experts]
        if list(router_logits.shape) != expected:
            raise ValueError(f"router_logits must be {expected}, got {list(router_logits.shape)}")
        topk_weights, topk_ids = self.experts.route(
            hidden_states, router_logits, custom_routing_function
        )
        return self.apply(
            hidden_states,
            w13,
            w2,
            topk_weights,
            topk_ids,
            activation=activation,
            global_num_experts=global_num_experts,
            expert_map=expert_map,
            apply_router_weight_on_input=apply_router_weight_on_input,
        )


def weigh_input(hidden_states: torch.Tensor, topk_weights: torch.Tensor) -> torch.Tensor:
    """Tokens [M, H] times their weights [M, 1].

    Raises ValueError for more than one expert per token: a token has one input, and its weights
    differ.
    """
    if topk_weights.shape[1] != 1:
        raise ValueError(f"apply_router_weight_on_input needs topk 1, got {topk_weights.shape[1]}")
    return hidden_states * topk_weights.to(hidden_states.dtype)


def check_arguments(
    hidden_states: torch.Tensor,
    w13: torch.Tensor,
    w2: torch.Tensor,
    topk_weights: torch.Tensor,
    routing: Routing,
    activation: str,
    weight_columns: Callable[[int], int],
) -> None:
    """Raise ValueError, saying what was given and expected, where arguments contradict.

    Looks at shapes, dtypes and devices only, never at values.
    """
    topk_ids, global_num_experts, expert_map = routing
    device = hidden_states.device
    for name, tensor, dim in (
        ("hidden_states", hidden_states, 2),
        ("w13", w13, 3),
        ("w2", w2, 3),
        ("topk_weights", topk_weights, 2),
        ("topk_ids", topk_ids, 2),
    ):
        if tensor.dim() != dim:
            raise ValueError(f"{name} must have {dim} dimensions, got shape {list(tensor.shape)}")
        if tensor.device != device:
            raise ValueError(f"{name} is on {tensor.device}, but hidden_states is on {device}")
    num_experts, n13, columns = w13.shape
    hidden = hidden_states.shape[1]
    if columns != weight_columns(hidden):
        raise ValueError(
            f"hidden_states of shape {list(hidden_states.shape)} need w13 of shape "
            f"[num_experts, rows, {weight_columns(hidden)}], got {list(w13.shape)}"
        )
    intermediate = n13 // 2 if activation_form(activation).gated else n13
    w2_shape = (num_experts, hidden, weight_columns(intermediate))
    if w2.shape != w2_shape or (intermediate != n13 and n13 % 2 != 0):
        raise ValueError(
            f"w13 of shape {list(w13.shape)} with activation {activation} needs w2 of shape "
            f"{list(w2_shape)}, got {list(w2.shape)}"
        )
    if topk_ids.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"topk_ids must be int32 or int64, got {topk_ids.dtype}")
    if not topk_weights.dtype.is_floating_point:
        raise ValueError(f"topk_weights must be floating, got {topk_weights.dtype}")
    if topk_ids.shape[0] != hidden_states.shape[0] or topk_weights.shape != topk_ids.shape:
        raise ValueError(
            f"topk_ids and topk_weights must both be [{hidden_states.shape[0]}, topk], got "
            f"{list(topk_ids.shape)} and {list(topk_weights.shape)}"
        )
    if expert_map is None:
        if global_num_experts != num_experts:
            raise ValueError(
                f"without expert_map all experts are local: global_num_experts must be "
                f"{num_experts}, got {global_num_experts}"
            )
    elif expert_map.dtype != torch.int32 or tuple(expert_map.shape) != (global_num_experts,):
        raise ValueError(
            f"expert_map must be int32 of shape [{global_num_experts}], got {expert_map.dtype} "
            f"of shape {list(expert_map.shape)}"
        )
    elif expert_map.device != device:
        raise ValueError(f"expert_map is on {expert_map.device}, but hidden_states is on {device}")
