"""An oracle's make_kernel joins the exchange that the parallel configuration asks for."""

import pytest
import torch
import torch.distributed as dist
from test_exchanges import EXCHANGES, Case

from moe_rules.machines.machine import load_machine
from moe_rules.oracles.unquantized import UnquantizedMoEKernelOracle

CASE = Case((3, 2), 4, in_dtype="fp32", hidden=64, intermediate=64)


def make(rank, size, exchange):
    share = CASE.share(CASE.whole(), rank, exchange)
    oracle = UnquantizedMoEKernelOracle(load_machine("x86"))
    backend, cls = oracle.select_backend(share.moe_config)
    kernel = oracle.make_kernel(
        share.quant_config,
        share.moe_config,
        backend,
        cls,
        process_group=dist.group.WORLD,
        capacity=5 if EXCHANGES[exchange][1] else None,
    )
    made = type(kernel.prepare_finalize).__name__
    return made, kernel.apply(**share.arguments()).numpy()


NAMES = {
    "gather": "AllGatherReduceScatter",
    "gather, fixed": "AllGatherReduceScatter",
    "all to all": "AllToAll",
    "all to all, fixed": "AllToAllFixedCapacity",
    "memory": "ThroughSymmetricMemory",
    "memory, fixed": "ThroughSymmetricMemory",
}


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_the_selected_kernel_runs_over_ranks(pools, exchange):
    made = pools(2).run(make, exchange)
    assert [name for name, _ in made] == [NAMES[exchange]] * 2
    output = torch.cat([torch.from_numpy(part) for _, part in made])
    torch.testing.assert_close(output.double(), CASE.whole().reference(), atol=1e-5, rtol=1e-4)
