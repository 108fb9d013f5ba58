"""From a decision's kernel name to a kernel that runs."""

from __future__ import annotations

from moe_kernels.modular_kernel import FusedMoEExperts, FusedMoEKernel, FusedMoEPrepareAndFinalize
from moe_kernels.prepare_finalize.no_ep import MoEPrepareAndFinalizeNoEP
from moe_kernels.quant_config import FusedMoEQuantConfig
from moe_kernels.registry import KernelUnavailableError, resolve
from moe_rules.layer import FusedMoEConfig


def bind(
    kernel_name: str,
    moe_config: FusedMoEConfig,
    quant_config: FusedMoEQuantConfig | None = None,
    *,
    prepare_finalize: FusedMoEPrepareAndFinalize | None = None,
) -> FusedMoEKernel:
    """The kernel called ``kernel_name`` for one layer.

    ``quant_config`` None: unquantized, without biases. ``prepare_finalize`` None: no token leaves
    its rank. Raises KernelUnavailableError if the class cannot be had or is another engine's,
    ValueError if it does not execute the scheme.
    """
    cls = resolve(kernel_name)
    if not issubclass(cls, FusedMoEExperts):
        raise KernelUnavailableError(
            f"kernel {kernel_name} is {cls.__module__}.{cls.__qualname__}, which is not a "
            "moe_kernels.modular_kernel.FusedMoEExperts: it runs inside the engine it comes from"
        )
    experts = cls(moe_config, quant_config or FusedMoEQuantConfig())
    return FusedMoEKernel(prepare_finalize or MoEPrepareAndFinalizeNoEP(), experts)
