"""A fixed number of rows, without waiting on the host: none is dropped in silence."""

import pytest
import torch
import torch.distributed as dist
from moe_kernels.prepare_finalize.fixed_capacity import CapacityError
from moe_kernels.registry.bind import bind
from test_exchanges import EXCHANGES, Case

CASE = Case((5, 2), 4, in_dtype="fp32", holds=((0, 1), (2, 3)))
IDS = (
    # To rank 1 go tokens 0, 2, 3 and 4 of rank 0: one too many.
    ((0, 1, 2), (0, 1, 0), (2, 3, 2), (3, 2, 3), (0, 1, 3)),
    ((0, 1, 2), (2, 3, 2)),
)


def routed(case, rank, exchange, ids, capacity):
    """A kernel with ``capacity``, and its arguments with other ids."""
    share = case.share(case.whole(), rank, exchange)
    kernel = bind(
        case.kernel,
        share.moe_config,
        process_group=dist.group.WORLD,
        expert_map=share.expert_map,
        capacity=capacity,
    )
    topk_ids = torch.tensor(ids[rank], dtype=torch.int32)
    return kernel, share.arguments() | {"topk_ids": topk_ids}


def overflow(rank, size, capacity):
    """The output, and what the next two calls and a question raise."""
    kernel, arguments = routed(CASE, rank, "all to all, fixed", IDS, capacity)
    output = kernel.apply(**arguments)
    nowhere = arguments | {"topk_ids": torch.full_like(arguments["topk_ids"], -1)}
    said = []
    for call in (
        lambda: kernel.apply(**nowhere),
        lambda: kernel.apply(**nowhere),
        kernel.prepare_finalize.raise_if_overflowed,
    ):
        try:
            call()
            said.append(None)
        except CapacityError as error:
            said.append(str(error))
    return output.numpy(), said


def test_tokens_that_do_not_fit_are_nan_and_every_rank_raises(pools):
    enough = [output for output, _ in pools(2).run(overflow, 4)]
    tight = pools(2).run(overflow, 3)
    (first, said), (second, also_said) = tight
    assert list(first[:, 0] != first[:, 0]) == [False, False, False, False, True]
    assert (first[:4] == enough[0][:4]).all()
    assert (second == enough[1]).all()
    assert said == also_said == [said[0], None, None]
    assert said[0].startswith(
        "a capacity of 3 tokens from one rank to another overflowed: rank 0 had 4 for one rank"
    )


def ask(rank, size):
    """What is said on asking, where no further call is made."""
    kernel, arguments = routed(CASE, rank, "all to all, fixed", IDS, 3)
    kernel.apply(**arguments)
    with pytest.raises(CapacityError, match="rank 0 had 4"):
        kernel.prepare_finalize.raise_if_overflowed()
    kernel.prepare_finalize.raise_if_overflowed()


def test_who_replays_graphs_asks(pools):
    pools(2).run(ask)


def too_many(rank, size, exchange):
    kernel, arguments = routed(CASE, rank, exchange, IDS, 5)
    kernel.apply(**arguments)
    few, arguments = routed(CASE, rank, exchange, IDS, 4)
    if rank == 0:
        with pytest.raises(ValueError, match="5 tokens on rank 0, capacity 4"):
            few.apply(**arguments)


@pytest.mark.parametrize("exchange", ["gather, fixed", "memory, fixed"])
def test_more_tokens_than_the_capacity_of_a_rank_are_refused(pools, exchange):
    pools(2).run(too_many, exchange)


def other_tokens(rank, size, exchange):
    kernel, arguments = routed(CASE, rank, exchange, IDS, 5)
    pairs = {name: arguments[name][:, :2] for name in ("topk_ids", "topk_weights")}
    with pytest.raises(ValueError, match=r"hidden size 72 with topk 2, but the layer has .* and 3"):
        kernel.apply(**arguments | pairs)
    with pytest.raises(ValueError, match=r"tokens in torch.bfloat16 .* has torch.float32"):
        kernel.apply(**arguments | {"hidden_states": arguments["hidden_states"].bfloat16()})
    with pytest.raises(ValueError, match="capacity must be 1 or more, got 0"):
        routed(CASE, rank, exchange, IDS, 0)


@pytest.mark.parametrize("exchange", [name for name, (_, fixed) in EXCHANGES.items() if fixed])
def test_tokens_have_the_layers_form(pools, exchange):
    pools(2).run(other_tokens, exchange)
