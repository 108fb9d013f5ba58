"""The exchanges on GPUs: NCCL between as many as there are, and CUDA graphs."""

import os
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from moe_kernels.modular_kernel import FusedMoEKernel
from moe_kernels.prepare_finalize.all_to_all import AllToAll
from moe_kernels.prepare_finalize.allgather_reducescatter import AllGatherReduceScatter
from moe_kernels.prepare_finalize.fixed_capacity import AllToAllFixedCapacity, CapacityError
from moe_kernels.prepare_finalize.symmetric_memory import ThroughSymmetricMemory
from moe_kernels.ranks.agreement import RankError
from moe_kernels.ranks.group import Ranks
from moe_kernels.reference import relative_error
from moe_kernels.registry.bind import bind
from moe_kernels.testing import random_layer
from rank_pool import RankPool

from moe_rules.vocabulary.layer import FusedMoEConfig, FusedMoEParallelConfig
from moe_rules.vocabulary.quant_keys import NAMED_KEYS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

EXCHANGES = {
    "gather": (AllGatherReduceScatter, False),
    "gather, fixed": (AllGatherReduceScatter, True),
    "all to all": (AllToAll, False),
    "all to all, fixed": (AllToAllFixedCapacity, True),
    "memory": (ThroughSymmetricMemory, False),
    "memory, fixed": (ThroughSymmetricMemory, True),
}
SCHEMES = {
    "bf16": (),
    "fp8 block": ("kFp8Static128BlockSym", "kFp8Dynamic128Sym"),
    "fp8 token": ("kFp8StaticChannelSym", "kFp8DynamicTokenSym"),
    "int8": ("kInt8StaticChannelSym", "kInt8DynamicTokenSym"),
}
TOKENS = 96
"""Of each rank, but for those that the rank's number takes away."""


@pytest.fixture(scope="module")
def pool():
    made = RankPool(torch.cuda.device_count(), backend="nccl")
    yield made
    made.stop()


def spread(rank, size, exchange, scheme, capacity=TOKENS):
    """A kernel over all ranks, the share of this one, and what one rank makes of its tokens."""
    config = FusedMoEConfig(13, 4, 256, 384)
    keys = [NAMED_KEYS[name] for name in SCHEMES[scheme]]
    counts = [TOKENS - 7 * i for i in range(size)]
    whole = random_layer(config, *keys, num_tokens=sum(counts), device=f"cuda:{rank}")
    first = sum(counts[:rank])
    mine = slice(first, first + counts[rank])
    parallel = FusedMoEParallelConfig(dp_size=size, ep_size=size, use_ep=True)
    held = replace(config, moe_parallel_config=parallel).experts_of(rank)
    share = whole.share(held, parallel).tokens(mine)
    one = bind("TritonExperts", config, whole.quant_config)
    kind, fixed = EXCHANGES[exchange]
    over = kind(
        Ranks(dist.group.WORLD),
        share.moe_config,
        share.quant_config,
        share.expert_map,
        capacity if fixed else None,
    )
    experts = bind("TritonExperts", share.moe_config, share.quant_config).experts
    expected = one.apply(**whole.arguments())[mine]
    return FusedMoEKernel(over, experts), share, expected


def run_layer(rank, size, exchange, scheme):
    kernel, share, expected = spread(rank, size, exchange, scheme)
    output = kernel.apply(**share.arguments())
    again = kernel.apply(**share.arguments())
    assert torch.equal(output, again)
    return relative_error(output, expected.double()), share.error_bound(kernel)


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_ranks_give_what_one_gives(pool, exchange, scheme):
    for error, bound in pool.run(run_layer, exchange, scheme):
        assert error <= bound


def replay(rank, size, exchange):
    """A graph's replay with other tokens, against calls without one."""
    kernel, share, _ = spread(rank, size, exchange, "bf16")
    arguments = share.arguments()
    kernel.apply(**arguments)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = kernel.apply(**arguments)
    errors = []
    for factor in (1.0, -0.5):
        share.hidden_states.mul_(factor)
        share.topk_ids.copy_(share.topk_ids.flip(0))
        graph.replay()
        replayed = output.clone()
        errors.append(not torch.equal(kernel.apply(**arguments), replayed))
    return errors


@pytest.mark.parametrize("exchange", ["gather, fixed", "all to all, fixed", "memory, fixed"])
def test_a_fixed_capacity_runs_in_a_cuda_graph(pool, exchange):
    assert not any(map(any, pool.run(replay, exchange)))


def overflow(rank, size):
    """In a graph nothing is raised until one asks, and then on every rank."""
    kernel, share, _ = spread(rank, size, "all to all, fixed", "bf16", capacity=5)
    arguments = share.arguments()
    nowhere = arguments | {"topk_ids": torch.full_like(share.topk_ids, -1)}
    kernel.apply(**nowhere)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = kernel.apply(**arguments)
    graph.replay()
    assert bool(torch.isnan(output).any(1).sum() >= len(output) - 5 * size)
    with pytest.raises(CapacityError, match="a capacity of 5 tokens"):
        kernel.prepare_finalize.raise_if_overflowed()
    kernel.apply(**nowhere)
    kernel.prepare_finalize.raise_if_overflowed()


def test_overflow_in_a_graph_is_told(pool):
    pool.run(overflow)


def lose(rank, size, exchange):
    kernel, share, _ = spread(rank, size, exchange, "bf16")
    kernel.apply(**share.arguments())
    torch.cuda.synchronize()
    if rank == size - 1:
        os._exit(1)
    try:
        kernel.apply(**share.arguments())
    except RankError as error:
        return str(error)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("exchange", ["all to all", "memory"])
def test_a_rank_that_ends_is_named(exchange):
    size = torch.cuda.device_count()
    pool = RankPool(size, timeout=20.0, backend="nccl")
    try:
        pool.start(lose, exchange)
        for rank in range(size - 1):
            done, said = pool.answer(rank)
            assert done
            assert said.startswith(f"rank {size - 1} (process {pool.processes[-1].pid} on ")
    finally:
        pool.stop()
