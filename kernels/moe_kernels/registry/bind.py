"""From a decision's kernel name to a kernel that runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe_kernels.modular_kernel import (
    FusedMoEExperts,
    FusedMoEKernel,
    FusedMoEPrepareAndFinalize,
)
from moe_kernels.prepare_finalize.choice import (
    prepare_finalize_on_this_rank,
    prepare_finalize_over,
)
from moe_kernels.quant_config import FusedMoEQuantConfig
from moe_kernels.registry import KernelUnavailableError, resolve
from moe_rules.vocabulary.layer import FusedMoEConfig

if TYPE_CHECKING:
    import torch
    import torch.distributed as dist


def bind(
    kernel_name: str,
    moe_config: FusedMoEConfig,
    quant_config: FusedMoEQuantConfig | None = None,
    *,
    oracle: str | None = None,
    prepare_finalize: FusedMoEPrepareAndFinalize | None = None,
    process_group: dist.ProcessGroup | None = None,
    expert_map: torch.Tensor | None = None,
    capacity: int | None = None,
) -> FusedMoEKernel:
    """The kernel called ``kernel_name`` for one layer.

    ``quant_config`` None: unquantized, without biases. ``oracle`` tells apart classes of one name.
    ``prepare_finalize`` None: tokens are exchanged between the ranks of ``process_group``, with
    ``expert_map`` and ``capacity`` as in
    :func:`moe_kernels.prepare_finalize.choice.prepare_finalize_over`, or without one stay on their
    rank. Raises KernelUnavailableError if the class cannot be had or is another engine's,
    ValueError if it does not execute the scheme, and as that function.
    """
    cls = resolve(kernel_name, oracle=oracle)
    if not issubclass(cls, FusedMoEExperts):
        raise KernelUnavailableError(
            f"kernel {kernel_name} is {cls.__module__}.{cls.__qualname__}, which is not a "
            "moe_kernels.modular_kernel.FusedMoEExperts: it runs inside the engine it comes from"
        )
    experts = cls(moe_config, quant_config or FusedMoEQuantConfig())
    if prepare_finalize is None and process_group is not None:
        prepare_finalize = prepare_finalize_over(
            process_group, experts, expert_map=expert_map, capacity=capacity
        )
    if prepare_finalize is None:
        prepare_finalize = prepare_finalize_on_this_rank(experts)
    return FusedMoEKernel(prepare_finalize, experts)
