"""A layer over ranks gives what it gives on one, whatever the ranks have."""

from dataclasses import dataclass, replace

import pytest
import torch
import torch.distributed as dist
from moe_kernels.reference import relative_error
from moe_kernels.registry.bind import bind
from moe_kernels.testing import random_layer

from moe_rules.vocabulary.layer import FusedMoEConfig, FusedMoEParallelConfig
from moe_rules.vocabulary.quant_keys import NAMED_KEYS

EXCHANGES = {
    "gather": ("allgather_reducescatter", False),
    "gather, fixed": ("allgather_reducescatter", True),
    "all to all": ("all_to_all_single", False),
    "all to all, fixed": ("all_to_all_single", True),
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

    def whole(self):
        """The layer with all tokens of all ranks, as one rank has it."""
        config = FusedMoEConfig(self.num_experts, 3, 72, 40, in_dtype=self.in_dtype)
        keys = (key and NAMED_KEYS[key] for key in (self.weight, self.activation))
        return random_layer(config, *keys, num_tokens=sum(self.tokens), seed=5)

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
    output = kernel.apply(**share.arguments())
    other = kernel.apply(**share.arguments() | {"hidden_states": -share.hidden_states})
    assert output.shape == share.hidden_states.shape
    assert output.dtype == share.hidden_states.dtype
    assert len(output) == 0 or not torch.equal(other, output)
    assert torch.equal(kernel.apply(**share.arguments()), output)
    return output.float().numpy()


def check(pools, case, exchange):
    outputs = pools(len(case.tokens)).run(run_case, case, exchange)
    output = torch.cat([torch.from_numpy(part) for part in outputs])
    whole = case.whole()
    kernel = bind(case.kernel, whole.moe_config, whole.quant_config)
    assert relative_error(output, whole.reference(kernel)) <= whole.error_bound(kernel)


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
    "quantized in the kernel": Case(
        (5, 6), 4, None, "CPUExpertsInt8", "kInt8StaticChannelSym", "kInt8DynamicTokenSym"
    ),
}


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("case", CASES)
def test_ranks_give_what_one_gives(pools, case, exchange):
    check(pools, CASES[case], exchange)
