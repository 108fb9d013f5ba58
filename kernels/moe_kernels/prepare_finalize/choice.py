"""Which way to prepare and finalize goes with a layer's parallel configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from moe_kernels.modular_kernel import (
    FusedMoEActivationFormat,
    FusedMoEExperts,
    FusedMoEPrepareAndFinalize,
)
from moe_kernels.prepare_finalize.batched import BatchedPrepareAndFinalize
from moe_kernels.prepare_finalize.no_ep import MoEPrepareAndFinalizeNoEP
from moe_kernels.routing import expert_map_of

if TYPE_CHECKING:
    import torch.distributed as dist


def prepare_finalize_on_this_rank(experts: FusedMoEExperts) -> FusedMoEPrepareAndFinalize:
    """Where no token leaves its rank."""
    batched = experts.activation_format is FusedMoEActivationFormat.BatchedExperts
    return BatchedPrepareAndFinalize() if batched else MoEPrepareAndFinalizeNoEP()


def prepare_finalize_over(
    group: dist.ProcessGroup,
    experts: FusedMoEExperts,
    *,
    expert_map: torch.Tensor | None = None,
    capacity: int | None = None,
) -> FusedMoEPrepareAndFinalize:
    """The exchange between the ranks of ``group`` that the layer's all2all_backend names.

    Each rank has tokens of its own. All of them call this, layer by layer in the same order.
    ``expert_map``: this rank's; None: experts lie in order (``FusedMoEConfig.experts_of``).
    ``capacity``: see :class:`moe_kernels.prepare_finalize.over_ranks.PrepareAndFinalizeOverRanks`.

    Raises ValueError for a layer whose tokens do not leave their rank, a group of another size, or
    an exchange that is not here, RankError where ranks disagree.
    """
    from moe_kernels.prepare_finalize.all_to_all import AllToAll
    from moe_kernels.prepare_finalize.allgather_reducescatter import AllGatherReduceScatter
    from moe_kernels.prepare_finalize.fixed_capacity import AllToAllFixedCapacity
    from moe_kernels.prepare_finalize.over_ranks import PrepareAndFinalizeOverRanks
    from moe_kernels.prepare_finalize.symmetric_memory import ThroughSymmetricMemory
    from moe_kernels.ranks.group import Ranks

    config, parallel = experts.moe_config, experts.moe_config.moe_parallel_config
    name = parallel.all2all_backend
    if not parallel.use_ep:
        # Every rank has a part of each expert: tokens go to all of them.
        name = "allgather_reducescatter"
    all_to_all = AllToAll if capacity is None else AllToAllFixedCapacity
    exchanges: dict[str, type[PrepareAndFinalizeOverRanks]] = {
        "allgather_reducescatter": AllGatherReduceScatter,
        "all_to_all_single": all_to_all,
        "symmetric_memory": ThroughSymmetricMemory,
    }
    if not (parallel.use_all2all_kernels or parallel.dp_size > 1):
        raise ValueError(
            "with neither data, sequence nor context parallelism all ranks have all tokens, and "
            "none is sent: leave out the group, and sum the ranks' outputs"
        )
    if name not in exchanges:
        raise ValueError(
            f"all2all_backend {name!r} is not here; expected one of {', '.join(exchanges)}"
        )
    ranks = Ranks(group)
    sizes = {parallel.dp_size * parallel.pcp_size, *([parallel.ep_size] if parallel.use_ep else [])}
    if ranks.size not in sizes:
        raise ValueError(
            f"the group has {ranks.size} ranks, but the layer's parallel configuration exchanges "
            f"tokens between {' or '.join(map(str, sorted(sizes)))}"
        )
    if expert_map is None and parallel.use_ep:
        if ranks.size != parallel.ep_size:
            raise ValueError(
                f"the group is {ranks.size} of {parallel.ep_size} ranks that share the experts: "
                "give this rank's expert_map"
            )
        expert_map = expert_map_of(config.num_experts, config.experts_of(ranks.rank))
    return exchanges[name](ranks, config, experts.quant_config, expert_map, capacity)
