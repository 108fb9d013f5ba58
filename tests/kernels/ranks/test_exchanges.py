"""A layer over ranks gives what it gives on one, whatever the ranks have."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
import torch.distributed as dist
from moe_kernels.ranks.agreement import RankError
from moe_kernels.reference import relative_error
from moe_kernels.registry.bind import bind
from moe_kernels.testing import RandomLayer, random_layer

from moe_rules.vocabulary.layer import FusedMoEConfig, FusedMoEParallelConfig
from moe_rules.vocabulary.quant_keys import NAMED_KEYS

EXCHANGES = {
    "gather": ("allgather_reducescatter", False),
    "gather, fixed": ("allgather_reducescatter", True),
    "all to all": ("all_to_all_single", False),
    "all to all, fixed": ("all_to_all_single", True),
    "memory": ("symmetric_memory", False),
    "memory, fixed": ("symmetric_memory", True),
}
"""all2all_backend, and whether with a capacity."""


@dataclass(frozen=True)
class Case:
    """One layer over ranks: ``tokens`` of every rank, and the experts that each ``holds``."""

    tokens: tuple
    num_experts: int = 6
    holds: tuple | None = None
    kernel: str = "CPUUnquantizedExperts"
    weight: str | None = None
    activation: str | None = None
    in_dtype: str = "bf16"
    top_k: int = 3
    hidden: int = 72
    intermediate: int = 40
    change: Callable[[RandomLayer], RandomLayer] | None = None
    weighs_input: bool = False

    def whole(self):
        """The layer with all tokens of all ranks, as one rank has it."""
        sizes = (self.num_experts, self.top_k, self.hidden, self.intermediate)
        config = FusedMoEConfig(*sizes, in_dtype=self.in_dtype)
        keys = (key and NAMED_KEYS[key] for key in (self.weight, self.activation))
        layer = random_layer(config, *keys, num_tokens=sum(self.tokens), seed=5)
        return layer if self.change is None else self.change(layer)

    def share(self, whole, rank, exchange):
        """The layer with tokens and experts of one rank."""
        size = len(self.tokens)
        backend, _ = EXCHANGES[exchange]
        parallel = FusedMoEParallelConfig(
            dp_size=size, ep_size=size, use_ep=True, all2all_backend=backend
        )
        config = replace(whole.moe_config, moe_parallel_config=parallel)
        held = config.experts_of(rank) if self.holds is None else self.holds[rank]
        first = sum(self.tokens[:rank])
        return whole.share(held, parallel).tokens(slice(first, first + self.tokens[rank]))

    def kernel_of(self, share, exchange):
        _, fixed = EXCHANGES[exchange]
        return bind(
            self.kernel,
            share.moe_config,
            share.quant_config,
            process_group=dist.group.WORLD,
            expert_map=share.expert_map,
            capacity=max(1, *self.tokens) if fixed else None,
        )


def run_case(rank, size, case, exchange):
    """This rank's output; the same again for other tokens, and bit for bit for these."""
    whole = case.whole()
    share = case.share(whole, rank, exchange)
    kernel = case.kernel_of(share, exchange)
    arguments = {**share.arguments(), "apply_router_weight_on_input": case.weighs_input}
    output = kernel.apply(**arguments)
    other = kernel.apply(**arguments | {"hidden_states": -share.hidden_states})
    assert output.shape == share.hidden_states.shape
    assert output.dtype == share.hidden_states.dtype
    assert len(output) == 0 or not torch.equal(other, output)
    assert torch.equal(kernel.apply(**arguments), output)
    return output.float().numpy()


def output_of(pools, case, exchange):
    """The outputs of all ranks, one after the other."""
    parts = pools(len(case.tokens)).run(run_case, case, exchange)
    return torch.cat([torch.from_numpy(part) for part in parts])


def check(pools, case, exchange):
    output, whole = output_of(pools, case, exchange), case.whole()
    kernel = bind(case.kernel, whole.moe_config, whole.quant_config)
    assert relative_error(output, whole.reference(kernel)) <= whole.error_bound(kernel)


def without_experts(layer):
    """Ids of no expert in one pair of three and in all of token 1, whose row is infinite."""
    ids = layer.topk_ids.long().clone()
    ids.view(-1)[::3] = torch.tensor([-1, 6, 2**31, 2**32 + 1, -(2**40), 7])[: len(ids)]
    ids[1] = 6
    rows = layer.hidden_states.clone()
    rows[1] = torch.inf
    weights = layer.topk_weights.masked_fill((ids < 0) | (ids >= 6), torch.nan)
    return replace(layer, topk_ids=ids, hidden_states=rows, topk_weights=weights)


def duplicates(layer):
    """Every token names an expert twice."""
    return replace(layer, topk_ids=layer.topk_ids[:, [0, 1, 0]])


def strided(layer):
    """Tokens that do not lie side by side."""
    return replace(layer, hidden_states=layer.hidden_states.repeat(1, 2)[:, :72])


CASES = {
    "two ranks": Case((5, 5)),
    "different numbers of tokens": Case((7, 3)),
    "a rank without tokens": Case((0, 6, 4, 1)),
    "no tokens at all": Case((0, 0)),
    "experts that do not divide": Case((3, 4, 5, 2), num_experts=7),
    "ranks without experts": Case((4, 3, 2, 5), num_experts=3),
    "experts out of order": Case((4, 5), holds=((5, 0, 3), (4, 1, 2))),
    "one rank holds all": Case((4, 5), holds=((), (0, 1, 2, 3, 4, 5))),
    "float32": Case((5, 6), in_dtype="fp32"),
    "pairs without experts": Case((2, 4), change=without_experts),
    "experts named twice": Case((2, 4), change=duplicates),
    "tokens with gaps": Case((2, 4), change=strided),
    "quantized in the kernel": Case(
        (5, 6), 4, None, "CPUExpertsInt8", "kInt8StaticChannelSym", "kInt8DynamicTokenSym"
    ),
}


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("case", CASES)
def test_ranks_give_what_one_gives(pools, case, exchange):
    check(pools, CASES[case], exchange)


def weighted(layer):
    """Weights that are not 1, as a single expert's are when they are drawn."""
    return replace(layer, topk_weights=layer.topk_weights * 0.5)


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_tokens_weighed_before_the_experts(pools, exchange):
    case = Case((3, 2), top_k=1, in_dtype="fp32", change=weighted, weighs_input=True)
    whole = case.whole()
    kernel = bind(case.kernel, whole.moe_config)
    expected = kernel.apply(**whole.arguments(), apply_router_weight_on_input=True)
    assert relative_error(output_of(pools, case, exchange), expected.double()) <= 1e-5
    later = kernel.apply(**whole.arguments())
    assert relative_error(later, expected.double()) > 1e-2


def with_copies(layer):
    """Experts 4 and 5 are copies of 0 and 1: tokens name one or the other in turn."""
    ids = layer.topk_ids % 4
    ids[::2] = torch.where(ids[::2] < 2, ids[::2] + 4, ids[::2])
    w13, w2 = (torch.cat([w[:4], w[:2]]) for w in (layer.w13, layer.w2))
    return replace(layer, topk_ids=ids, w13=w13, w2=w2)


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_an_id_names_a_physical_expert(pools, exchange):
    case = Case((4, 5), in_dtype="fp32", holds=((0, 1, 2), (3, 4, 5)), change=with_copies)
    whole = case.whole()
    logical = FusedMoEConfig(4, 3, 72, 40, in_dtype="fp32")
    arguments = whole.arguments() | {"w13": whole.w13[:4], "w2": whole.w2[:4]}
    arguments |= {"topk_ids": whole.topk_ids % 4, "global_num_experts": 4}
    expected = bind(case.kernel, logical).apply(**arguments)
    assert relative_error(output_of(pools, case, exchange), expected.double()) <= 1e-5


def in_parts(rank, size, exchange):
    """Without expert parallelism: every rank has a part of each expert's intermediate values."""
    whole = Case((3, 4), in_dtype="fp32").whole()
    backend, fixed = EXCHANGES[exchange]
    parallel = FusedMoEParallelConfig.make(dp_size=size, all2all_backend=backend)
    config = replace(
        whole.moe_config, moe_parallel_config=parallel, intermediate_size_per_partition=20
    )
    part = slice(20 * rank, 20 * rank + 20)
    w13 = torch.cat([half[:, part] for half in whole.w13.chunk(2, 1)], 1)
    tokens = whole.tokens(slice(0, 3) if rank == 0 else slice(3, 7))
    kernel = bind(
        "CPUUnquantizedExperts",
        config,
        process_group=dist.group.WORLD,
        capacity=4 if fixed else None,
    )
    assert type(kernel.prepare_finalize).__name__ == "AllGatherReduceScatter"
    arguments = tokens.arguments() | {"w13": w13, "w2": whole.w2[:, :, part]}
    return relative_error(kernel.apply(**arguments), tokens.reference())


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_ranks_with_a_part_of_each_expert(pools, exchange):
    assert max(pools(2).run(in_parts, exchange)) <= 1e-5


def in_groups(rank, size):
    """Ranks 0 and 2 share a layer, and ranks 1 and 3 another; messages have their numbers."""
    groups = [dist.new_group([0, 2]), dist.new_group([1, 3])]
    case = Case((3, 4), in_dtype="fp32", change=strided if rank % 2 else None)
    share = case.share(case.whole(), rank // 2, "all to all")
    kernel = bind(case.kernel, share.moe_config, process_group=groups[rank % 2])
    error = relative_error(kernel.apply(**share.arguments()), case.whole().tokens(
        slice(0, 3) if rank < 2 else slice(3, 7)
    ).reference())  # fmt: skip
    with pytest.raises(RankError, match=f"expert 0 is on ranks {rank % 2}, {rank % 2 + 2}"):
        bind(
            case.kernel,
            share.moe_config,
            process_group=groups[rank % 2],
            expert_map=torch.arange(6, dtype=torch.int32),
        )
    return error


def test_groups_are_some_of_the_ranks(pools):
    assert max(pools(4).run(in_groups)) <= 1e-5
