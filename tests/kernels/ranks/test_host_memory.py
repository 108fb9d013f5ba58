"""What ranks of one host tell each other, and the memory that they share."""

import pytest
import torch
import torch.distributed as dist
from moe_kernels.prepare_finalize.symmetric_memory import ThroughSymmetricMemory
from moe_kernels.ranks.agreement import RankError
from moe_kernels.ranks.group import Ranks
from moe_kernels.ranks.host_memory import Board
from moe_kernels.ranks.symmetric_buffer import symmetric_buffer
from moe_kernels.registry.bind import bind
from test_exchanges import Case

CPU = torch.device("cpu")


def joined():
    """The ranks, once they know each other."""
    ranks = Ranks(dist.group.WORLD)
    ranks.agree({}, None)
    return ranks


def rounds(rank, size):
    ranks = joined()
    board = Board(ranks.tell, rank, size)
    for number in range(200):
        board.write(2**63 - 1 - rank, number * size + rank)
        while not board.is_written():
            pass
        said = board.read()
        assert said == [(2**63 - 1 - i, number * size + i) for i in range(size)]


@pytest.mark.parametrize("size", [2, 4])
def test_every_rank_reads_what_all_wrote(pools, size):
    pools(size).run(rounds)


def test_what_is_half_written_is_not_read():
    board = Board(lambda key, what: [what], 0, 1)
    board.write(3, 4)
    assert board.is_written()
    board.write(5, 6)
    (part,) = board._parts
    part[0, 0, 1] = 3
    assert not board.is_written()


def most(rank, size, other_hosts):
    """Also between hosts, where the numbers go as tensors."""
    ranks = joined()
    if other_hosts:
        ranks.hosts = [f"node{i}" for i in range(size)]
    found = []
    for number in (rank, size - rank, 0):
        ranks.begin_layer()
        found.append(ranks.most({}, number, CPU))
        ranks.end_layer()
    with pytest.raises(RankError, match="a: 0 on rank 0; 1 on rank 1"):
        ranks.most({"a": rank}, 1, CPU)
    return found


@pytest.mark.parametrize("other_hosts", [False, True])
def test_all_know_the_largest_number(pools, other_hosts):
    assert pools(4).run(most, other_hosts) == [[3, 4, 0]] * 4


def buffers(rank, size):
    """Layers share a buffer until one needs more; then the others keep theirs."""
    first = symmetric_buffer(joined(), "a test", 64, CPU)
    ranks = joined()
    assert symmetric_buffer(ranks, "a test", 32, CPU) is first
    assert symmetric_buffer(ranks, "another", 32, CPU) is not first
    larger = symmetric_buffer(ranks, "a test", 65, CPU)
    for number, buffer in enumerate((first, larger)):
        for part in buffer.parts:
            part[rank] = 10 * number + rank
        buffer.wait_for_all(ranks)
    for number, buffer in enumerate((first, larger)):
        assert buffer.parts[rank][:size].tolist() == [10 * number + i for i in range(size)]


def test_layers_share_a_buffer(pools):
    pools(4).run(buffers)


def on_other_hosts(rank, size):
    case = Case((2, 3))
    share = case.share(case.whole(), rank, "memory")
    experts = bind(case.kernel, share.moe_config).experts
    ranks = Ranks(dist.group.WORLD)
    agree = ranks.agree

    def from_elsewhere(*arguments):
        said = agree(*arguments)
        ranks.hosts[-1] = "elsewhere"
        return said

    ranks.agree = from_elsewhere
    with pytest.raises(ValueError, match="ranks of one host, but these are on "):
        ThroughSymmetricMemory(ranks, share.moe_config, experts.quant_config, share.expert_map)


def test_memory_of_other_hosts_is_refused(pools):
    pools(2).run(on_other_hosts)
