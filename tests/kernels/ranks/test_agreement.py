"""Ranks that do not have the same layer are refused before any of them sends."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from moe_kernels.ranks.agreement import RankError, digest, disagreement
from moe_kernels.registry.bind import bind
from moe_kernels.testing import random_layer
from test_exchanges import Case

from moe_rules.vocabulary.layer import FusedMoEConfig, FusedMoEParallelConfig
from moe_rules.vocabulary.quant_keys import NAMED_KEYS

CASE = Case((3, 2, 4, 3), in_dtype="fp32")
PARALLEL = FusedMoEParallelConfig(
    dp_size=4, ep_size=4, use_ep=True, all2all_backend="all_to_all_single"
)
CONFIG = FusedMoEConfig(6, 3, 72, 40, in_dtype="fp32", moe_parallel_config=PARALLEL)
OTHERS = {
    "experts": (
        {"num_experts": 8},
        "num_experts: 6 on ranks 0, 1, 3; 8 on rank 2",
    ),
    "topk": ({"experts_per_token": 2}, "experts_per_token: 3 on ranks 0, 1, 3; 2 on rank 2"),
    "hidden size": ({"hidden_dim": 80}, "hidden_dim: 72 on ranks 0, 1, 3; 80 on rank 2"),
    "dtype": ({"in_dtype": "bf16"}, "in_dtype: fp32 on ranks 0, 1, 3; bf16 on rank 2"),
    "activation": ({"activation": "gelu"}, "activation: silu on ranks 0, 1, 3; gelu on rank 2"),
    "two at once": (
        {"hidden_dim": 80, "intermediate_size": 48, "intermediate_size_per_partition": 48},
        "80 on rank 2. intermediate_size_per_partition: 40 on ranks 0, 1, 3; 48 on rank 2",
    ),
    "exchange": (
        {"moe_parallel_config": replace(PARALLEL, all2all_backend="allgather_reducescatter")},
        "exchange: AllToAll on ranks 0, 1, 3; AllGatherReduceScatter on rank 2",
    ),
}


def join(config, rank, kernel="CPUUnquantizedExperts", **others):
    """Why a rank refuses to be one of a layer."""
    layer = random_layer(config, *others.pop("keys", ()), num_tokens=1, ep_rank=rank)
    try:
        bind(kernel, config, layer.quant_config, process_group=dist.group.WORLD, **others)
    except (RankError, ValueError) as error:
        return str(error)


def join_as_another(rank, size, changes):
    return join(replace(CONFIG, **(changes if rank == 2 else {})), rank)


@pytest.mark.parametrize("case", OTHERS)
def test_all_ranks_say_which_rank_has_what(pools, case):
    changes, said = OTHERS[case]
    answers = pools(4).run(join_as_another, changes)
    assert set(answers) == {answers[0]}
    assert answers[0].startswith("the 4 ranks of a layer disagree: ")
    assert said in answers[0]


def join_quantized(rank, size):
    keys = {
        True: ("CPUExpertsInt8", "kInt8StaticChannelSym", "kInt8DynamicTokenSym"),
        False: ("CPUExpertsFp8", "kFp8StaticChannelSym", "kFp8DynamicTokenSym"),
    }
    kernel, *names = keys[rank == 0]
    return join(CONFIG, rank, kernel, keys=[NAMED_KEYS[name] for name in names])


def test_quantization_is_part_of_it(pools):
    for said in pools(4).run(join_quantized):
        assert "weight_key: kInt8StaticChannelSym on rank 0; kFp8StaticChannelSym on" in said
        assert "activation_key: kInt8DynamicTokenSym on rank 0; kFp8DynamicTokenSym on" in said


def join_with_map(rank, size, held):
    expert_map = torch.full((6,), -1, dtype=torch.int32)
    expert_map[list(held[rank])] = torch.arange(len(held[rank]), dtype=torch.int32)
    return join(CONFIG, rank, expert_map=expert_map)


def test_an_expert_is_on_one_rank(pools):
    answers = pools(4).run(join_with_map, ((0, 1), (2,), (3, 1), (4, 5)))
    assert set(answers) == {
        "expert 1 is on ranks 0, 2: give each copy an id of its own (a physical expert)"
    }
    answers = pools(4).run(join_with_map, ((0, 1), (2,), (), (4,)))
    assert set(answers) == {"2 of 6 experts are on no rank, the first is 3"}


def call_as_another(rank, size, exchange, change):
    """A call that one rank makes with other tokens; then, all together again."""
    share = CASE.share(CASE.whole(), rank, exchange)
    kernel = CASE.kernel_of(share, exchange)
    kernel.apply(**share.arguments())
    arguments = share.arguments()
    if rank == 1:
        arguments[change] = arguments[change][:, :2]
        arguments |= {n: arguments[n][:, :2] for n in ("topk_ids", "topk_weights")}
    try:
        kernel.apply(**arguments)
    except RankError as error:
        return str(error)


@pytest.mark.parametrize("exchange", ["gather", "all to all"])
def test_a_call_with_other_tokens_is_refused(pools, exchange):
    answers = pools(4).run(call_as_another, exchange, "topk_ids")
    assert set(answers) == {answers[0]}
    assert "disagree in a call: a token's row: " in answers[0]
    assert "topk_ids int32 [3] on ranks 0, 2, 3" in answers[0]
    assert "topk_ids int32 [2] on rank 1" in answers[0]


def call_twice(rank, size, exchange):
    """Rank 3 leaves out a call, as if an error had been caught in it."""
    share = CASE.share(CASE.whole(), rank, exchange)
    kernel = CASE.kernel_of(share, exchange)
    kernel.apply(**share.arguments())
    if rank == 3:
        kernel.prepare_finalize.ranks.calls += 1
    try:
        kernel.apply(**share.arguments())
    except RankError as error:
        return str(error)


@pytest.mark.parametrize("exchange", ["gather", "all to all"])
def test_ranks_in_different_calls_are_refused(pools, exchange):
    for said in pools(4).run(call_twice, exchange):
        assert said == (
            "the 4 ranks of a layer disagree in a call: "
            "number of the call: 2 on ranks 0, 1, 2; 3 on rank 3"
        )


def call_with_another_map(rank, size):
    share = CASE.share(CASE.whole(), rank, "all to all")
    kernel = CASE.kernel_of(share, "all to all")
    arguments = share.arguments()
    other = arguments | {"expert_map": share.expert_map.roll(1)}
    with pytest.raises(ValueError, match=f"rank {rank} told the others of another expert_map"):
        kernel.apply(**other)
    with pytest.raises(ValueError, match="w13 holds 0 experts, but rank"):
        kernel.apply(**arguments | {"w13": share.w13[:0], "w2": share.w2[:0]})
    same = arguments | {"expert_map": share.expert_map.clone()}
    assert torch.equal(kernel.apply(**same), kernel.apply(**arguments))


def test_a_call_has_the_experts_that_the_others_know_of(pools):
    pools(4).run(call_with_another_map)


CONFIGS = {
    "no exchange": (
        FusedMoEParallelConfig(ep_size=4, use_ep=True),
        "none is sent: leave out the group, and sum the ranks' outputs",
    ),
    "another's": (
        replace(PARALLEL, all2all_backend="deepep_low_latency"),
        "all2all_backend 'deepep_low_latency' is not here; expected one of "
        "allgather_reducescatter, all_to_all_single",
    ),
    "ranks": (
        FusedMoEParallelConfig(dp_size=2, ep_size=8, use_ep=True),
        "the group has 4 ranks, but the layer's parallel configuration exchanges tokens between "
        "2 or 8",
    ),
    "some of the experts": (
        FusedMoEParallelConfig(dp_size=4, ep_size=8, use_ep=True),
        "the group is 4 of 8 ranks that share the experts: give this rank's expert_map",
    ),
}


def join_in_parallel(rank, size, parallel):
    config = FusedMoEConfig(8, 3, 72, 40, in_dtype="fp32", moe_parallel_config=parallel)
    return join(config, rank)


@pytest.mark.parametrize("case", CONFIGS)
def test_the_parallel_configuration_decides(pools, case):
    parallel, said = CONFIGS[case]
    for answer in pools(4).run(join_in_parallel, parallel):
        assert said in answer


def test_without_a_process_group():
    with pytest.raises(ValueError, match="start with torchrun and call"):
        bind("CPUUnquantizedExperts", CONFIG, process_group=object())


FACTS = st.dictionaries(st.sampled_from("abc"), st.integers(0, 2) | st.none(), min_size=3)


@given(st.lists(FACTS, min_size=1, max_size=4))
def test_ranks_agree_exactly_if_all_say_the_same(said):
    agree = all(facts == said[0] for facts in said)
    assert (disagreement(dict(enumerate(said))) is None) == agree
    assert (len({digest(facts) for facts in said}) == 1) == agree
