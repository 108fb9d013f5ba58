"""What ways to send tokens to the experts of other ranks share.

Each rank has tokens of its own, any number of them; experts are spread over the ranks. prepare
sends each token, with its routing, to ranks that have experts for it; these compute their part of
its weighted sum, and finalize brings the parts back and sums them. Tokens are quantized before they
travel where the experts take them quantized, but for one scale over all tokens, which is one over
those that a rank receives, and static scales that are not the same on all ranks.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch

from moe_kernels.dtypes import torch_dtype
from moe_kernels.modular_kernel import (
    Exchange,
    FusedMoEExperts,
    FusedMoEPrepareAndFinalize,
    PrepareResult,
)
from moe_kernels.prepare_finalize.rows import RowLayout, TokenRows
from moe_kernels.quant_config import FusedMoEQuantConfig
from moe_kernels.ranks.agreement import Facts, RankError, in_words
from moe_kernels.ranks.group import Ranks
from moe_kernels.routing import Routing
from moe_rules.vocabulary.layer import FusedMoEConfig


class PrepareAndFinalizeOverRanks(FusedMoEPrepareAndFinalize):
    """The common part; all ranks of the group construct it, with what each holds.

    ``expert_map``: [num_experts] int32, as calls have it; None: every rank has a part of every
    expert. ``capacity``: so many rows are sent whatever the routing, without waiting for the other
    ranks on the host, as CUDA graphs need; None: as many as there are.

    Raises RankError if ranks disagree about the layer, an expert is on several of them, or, where
    the group is all of the layer's ranks, on none.
    """

    sums_pairs: ClassVar[bool] = False
    """Whether finalize weighs and sums where experts can leave that to it."""
    _owner: torch.Tensor | None = None

    def __init__(
        self,
        ranks: Ranks,
        moe_config: FusedMoEConfig,
        quant_config: FusedMoEQuantConfig,
        expert_map: torch.Tensor | None,
        capacity: int | None = None,
    ) -> None:
        if capacity is not None and capacity < 1:
            raise ValueError(f"capacity must be 1 or more, got {capacity}")
        self.ranks = ranks
        self.capacity = capacity
        self._this_rank = in_words([ranks.numbers[ranks.rank]])
        self.moe_config = moe_config
        self._quantizes_late = quant_config.has_one_dynamic_scale
        self._expert_map = expert_map
        self._accepted_map = expert_map
        held = None
        if expert_map is not None:
            local = expert_map.tolist()
            held = [expert for expert, place in enumerate(local) if place >= 0]
        self._num_local_experts = moe_config.num_experts if held is None else len(held)
        static = quant_config.a13_scale, quant_config.a13_scale_2
        scales = [None if scale is None else float(scale) for scale in static]
        said = ranks.agree(self._facts(quant_config), [held, scales])
        # Each rank may have the largest of its own experts' scales.
        self._quantizes_late |= any(others != scales for _, others in said)
        placed = [experts for experts, _ in said]
        self._owners = _owners(placed, ranks.numbers, moe_config) if held is not None else None

    def _facts(self, quant_config: FusedMoEQuantConfig) -> Facts:
        """What all ranks must have alike."""
        config = self.moe_config
        names = ("num_experts", "experts_per_token", "hidden_dim", "in_dtype", "activation")
        return {
            "exchange": type(self).__name__,
            "capacity": self.capacity,
            "ranks of the group": self.ranks.size,
            **{name: getattr(config, name) for name in names},
            "intermediate_size_per_partition": config.intermediate_size_per_partition,
            "ep_size": config.moe_parallel_config.ep_size,
            "weight_key": str(quant_config.weight_key),
            "activation_key": str(quant_config.activation_key),
            "experts": "some" if self._expert_map is not None else "a part of each",
        }

    def prepare(
        self,
        hidden_states: torch.Tensor,
        topk_weights: torch.Tensor | None,
        routing: Routing,
        experts: FusedMoEExperts,
        num_local_experts: int,
    ) -> PrepareResult:
        """Send tokens to the ranks that have experts for them.

        Raises RankError if a rank is missing, its call is another one's, or the call before has not
        come to its end; ValueError if ``expert_map`` or the experts in w13 are not those that this
        was constructed with.
        """
        self._check(routing, num_local_experts)
        self.ranks.begin_layer()
        try:
            return self._sent(hidden_states, topk_weights, routing, experts)
        except BaseException:
            self.ranks.end_layer()
            raise

    def finalize(self, expert_output: torch.Tensor, prepared: PrepareResult) -> torch.Tensor:
        """Bring the parts of each token's sum back, and sum them: [M, H].

        Raises RankError if a rank is missing.
        """
        try:
            return self._combine(expert_output, prepared)
        finally:
            self.ranks.end_layer()

    def _sent(
        self,
        hidden_states: torch.Tensor,
        topk_weights: torch.Tensor | None,
        routing: Routing,
        experts: FusedMoEExperts,
    ) -> PrepareResult:
        if self.capacity is not None:
            self._check_tokens(hidden_states, routing)
        ids = routing.topk_ids
        scale, row_scale = None, None
        if not self._quantizes_late:
            everywhere = Routing(ids, routing.global_num_experts, None)
            hidden_states, scale = experts.quantize_input(hidden_states, everywhere)
            row_scale = scale if scale is not None and scale.dim() > 1 else None
        if topk_weights is None:
            topk_weights = ids.new_ones(ids.shape, dtype=torch.float32)
        rows = TokenRows(hidden_states, row_scale, topk_weights, ids)
        received, exchange = self._dispatch(rows)
        local = Routing(received.topk_ids, routing.global_num_experts, routing.expert_map)
        tokens = received.hidden_states
        if self._quantizes_late:
            tokens, scale = experts.quantize_input(tokens, local)
        elif received.scale is not None:
            scale = received.scale
        unsummed = self.sums_pairs and experts.can_leave_sum and tokens.is_cuda
        return PrepareResult(
            tokens, scale, received.topk_weights, local, exchange=exchange, unsummed=unsummed
        )

    def rows_moved(self, exchange: Exchange) -> tuple[list[int], list[int]]:
        """How many rows went to and came from every rank; may wait for all, on the host."""
        return exchange.sent, exchange.received

    @abstractmethod
    def _dispatch(self, rows: TokenRows) -> tuple[TokenRows, Exchange]:
        """Send ``rows``, whose ids and weights are as the call has them.

        Returns those that this rank received, and how they went.
        """

    @abstractmethod
    def _combine(self, expert_output: torch.Tensor, prepared: PrepareResult) -> torch.Tensor:
        """:meth:`finalize`."""

    def _check_tokens(self, hidden_states: torch.Tensor, routing: Routing) -> None:
        """Raise ValueError for tokens that are not those of the layer: nobody else would know."""
        config = self.moe_config
        given = hidden_states.dtype, hidden_states.shape[1], routing.topk_ids.shape[1]
        expected = torch_dtype(config.in_dtype), config.hidden_dim, config.experts_per_token
        if given != expected:
            raise ValueError(
                f"tokens in {given[0]} of hidden size {given[1]} with topk {given[2]}, but the "
                f"layer has {expected[0]}, {expected[1]} and {expected[2]}"
            )

    def most_tokens(self, rows: TokenRows) -> int:
        """The most that any rank has, for which ranks wait on the host; or the capacity.

        Raises ValueError for more than that.
        """
        num_tokens, device = len(rows.topk_ids), rows.topk_ids.device
        if self.capacity is None:
            return self.ranks.most({"a token's row": str(RowLayout(rows))}, num_tokens, device)
        if num_tokens > self.capacity:
            raise ValueError(f"{num_tokens} tokens on {self._this_rank}, capacity {self.capacity}")
        return self.capacity

    def owners(self, device: torch.device) -> torch.Tensor:
        """[num_experts] int32: the rank of each expert, or the number of ranks for none."""
        if self._owner is None or self._owner.device != device:
            self._owner = torch.tensor(self._owners, dtype=torch.int32, device=device)
        return self._owner

    def _check(self, routing: Routing, num_local_experts: int) -> None:
        """Raise ValueError where a call has other experts than this was constructed with."""
        if num_local_experts != self._num_local_experts:
            raise ValueError(
                f"w13 holds {num_local_experts} experts, but {self._this_rank} told the "
                f"others of {self._num_local_experts}"
            )
        given = routing.expert_map
        if given is self._accepted_map:
            return
        # Reads values, so only of a map that is new; CUDA graphs are captured after a first call.
        own = self._expert_map
        if given is None or own is None or not torch.equal(given.cpu(), own.cpu()):
            raise ValueError(
                f"{self._this_rank} told the others of another expert_map than this call has"
            )
        self._accepted_map = given


def _owners(placed: list[list[int]], numbers: list[int], config: FusedMoEConfig) -> list[int]:
    """The rank of each expert, or the number of ranks for none. Raises RankError."""
    owners = [len(placed)] * config.num_experts
    for rank, held in enumerate(placed):
        for expert in held:
            if owners[expert] < len(placed):
                both = in_words([numbers[owners[expert]], numbers[rank]])
                raise RankError(
                    f"expert {expert} is on {both}: give each copy an id of its own (a physical "
                    "expert)"
                )
            owners[expert] = rank
    nowhere = [expert for expert, owner in enumerate(owners) if owner == len(placed)]
    if nowhere and len(placed) == config.moe_parallel_config.ep_size:
        raise RankError(
            f"{len(nowhere)} of {config.num_experts} experts are on no rank, the first is "
            f"{nowhere[0]}"
        )
    return owners
