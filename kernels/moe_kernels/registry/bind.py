"""From a decision's kernel name to a kernel that runs."""

from __future__ import annotations

from moe_kernels.modular_kernel import (
    FusedMoEActivationFormat,
    FusedMoEExperts,
    FusedMoEKernel,
    FusedMoEPrepareAndFinalize,
)
from moe_kernels.prepare_finalize.batched import BatchedPrepareAndFinalize
from moe_kernels.prepare_finalize.no_ep import MoEPrepareAndFinalizeNoEP
from moe_kernels.quant_config import FusedMoEQuantConfig
from moe_kernels.registry import KernelUnavailableError, resolve
from moe_rules.vocabulary.layer import FusedMoEConfig


def bind(
    kernel_name: str,
    moe_config: FusedMoEConfig,
    quant_config: FusedMoEQuantConfig | None = None,
    *,
    oracle: str | None = None,
    prepare_finalize: FusedMoEPrepareAndFinalize | None = None,
) -> FusedMoEKernel:
    """The kernel called ``kernel_name`` for one layer.

    ``quant_config`` None: unquantized, without biases. ``oracle`` tells apart classes of one name.
    ``prepare_finalize`` None: no token leaves its rank. Raises KernelUnavailableError if the class
    cannot be had or is another engine's, ValueError if it does not execute the scheme.
    """
    cls = resolve(kernel_name, oracle=oracle)
    if not issubclass(cls, FusedMoEExperts):
        raise KernelUnavailableError(
            f"kernel {kernel_name} is {cls.__module__}.{cls.__qualname__}, which is not a "
            "moe_kernels.modular_kernel.FusedMoEExperts: it runs inside the engine it comes from"
        )
    experts = cls(moe_config, quant_config or FusedMoEQuantConfig())
    if prepare_finalize is None:
        batched = experts.activation_format is FusedMoEActivationFormat.BatchedExperts
        prepare_finalize = BatchedPrepareAndFinalize() if batched else MoEPrepareAndFinalizeNoEP()
    return FusedMoEKernel(prepare_finalize, experts)
