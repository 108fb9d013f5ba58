"""The backends of each oracle, with the member names and values of vLLM 0.33."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import TypeVar

BackendT = TypeVar("BackendT", bound=Enum)


def member(backends: type[BackendT], name: str) -> BackendT:
    """The member of an Enum of backends, vLLM's or this package's.

    Raises ValueError for a name that it lacks: rules may declare any backend, an Enum has those
    of its version of vLLM.
    """
    try:
        return backends[name]
    except KeyError:
        raise ValueError(
            f"the rules name backend {name!r}, and vLLM's {backends.__name__} has no such member; "
            f"it has {', '.join(backends.__members__)}. To run a class of your own in vLLM, bind "
            "it to a kernel of one of these (kernels: {KERNEL: {class: 'module:Class'}}, "
            "docs/vllm.md)"
        ) from None


class BackendGroup:
    """Some backends of one Enum. Members of vLLM's Enum of that name are in it as well."""

    def __init__(self, *backends: Enum) -> None:
        self._backends = backends

    def __contains__(self, backend: object) -> bool:
        return any(
            type(backend).__name__ == type(own).__name__
            and getattr(backend, "name", "") == own.name
            for own in self._backends
        )

    def __iter__(self) -> Iterator[Enum]:
        return iter(self._backends)


class UnquantizedMoeBackend(Enum):
    """Backends of unquantized layers."""

    FLASHINFER_TRTLLM = "FlashInfer TRTLLM"
    FLASHINFER_CUTLASS = "FlashInfer CUTLASS"
    AITER = "ROCm AITER"
    TRITON = "TRITON"
    BATCHED_TRITON = "BATCHED_TRITON"
    MOONEP = "MOONEP"
    CPU = "CPU"
    XPU = "XPU"
    TPU = "TPU"
    OOT = "OOT"


class Fp8MoeBackend(Enum):
    """Backends of FP8 and MXFP8 layers."""

    NONE = "NONE"
    FLASHINFER_TRTLLM = "FLASHINFER_TRTLLM"
    FLASHINFER_CUTLASS = "FLASHINFER_CUTLASS"
    DEEPGEMM = "DEEPGEMM"
    BATCHED_DEEPGEMM = "BATCHED_DEEPGEMM"
    MARLIN = "MARLIN"
    HUMMING = "HUMMING"
    TRITON = "TRITON"
    BATCHED_TRITON = "BATCHED_TRITON"
    AITER = "AITER"
    VLLM_CUTLASS = "VLLM_CUTLASS"
    BATCHED_VLLM_CUTLASS = "BATCHED_VLLM_CUTLASS"
    XPU = "XPU"
    CPU = "CPU"
    CPU_W8A8 = "CPU_W8A8"
    HPC = "HPC"
    EMULATION = "EMULATION"
    TRITON_MXFP8 = "TRITON_MXFP8"
    AITER_MXFP8 = "AITER_MXFP8"


class Int8MoeBackend(Enum):
    """Backends of int8 layers."""

    TRITON = "TRITON"
    HUMMING = "HUMMING"
    CPU = "CPU"


class WNA16MoEBackend(Enum):
    """Backends of layers with integer weights and 16-bit activations."""

    MARLIN = "MARLIN"
    BATCHED_MARLIN = "BATCHED_MARLIN"
    HUMMING = "HUMMING"
    CPU = "CPU"
    ZEN_CPU = "ZEN_CPU"
    FLASHINFER_TRTLLM = "FLASHINFER_TRTLLM"
    TRITON = "TRITON"
    XPU = "XPU"
    EMULATION = "EMULATION"
    RDNA3 = "RDNA3"


class Mxfp4MoeBackend(Enum):
    """Backends of MXFP4 layers; ``AITER`` is an alias."""

    NONE = "None"
    B12X_MXFP4_MXFP8 = "B12X_MXFP4_MXFP8"
    B12X_MXFP4_BF16 = "B12X_MXFP4_BF16"
    DEEPGEMM_MXFP4 = "DEEPGEMM_MXFP4"
    FLASHINFER_TRTLLM_MXFP4_MXFP8 = "FLASHINFER_TRTLLM_MXFP4_MXFP8"
    FLASHINFER_TRTLLM_MXFP4_BF16 = "FLASHINFER_TRTLLM_MXFP4_BF16"
    FLASHINFER_CUTLASS_MXFP4_MXFP8 = "FLASHINFER_CUTLASS_MXFP4_MXFP8"
    FLASHINFER_CUTLASS_MXFP4_BF16 = "FLASHINFER_CUTLASS_MXFP4_BF16"
    CUTLASS_MXFP4_MXFP4 = "CUTLASS_MXFP4_MXFP4"
    BATCHED_MARLIN = "BATCHED_MARLIN"
    MARLIN = "MARLIN"
    AITER_MXFP4_BF16 = "AITER_MXFP4_BF16"
    AITER = "AITER_MXFP4_BF16"  # noqa: PIE796
    AITER_TRITON_MXFP4_BF16 = "AITER_TRITON_MXFP4_BF16"
    AITER_MXFP4_FP8 = "AITER_MXFP4_FP8"
    AITER_MXFP4_MXFP4 = "AITER_MXFP4_MXFP4"
    AITER_TRITON_MXFP4_MXFP4 = "AITER_TRITON_MXFP4_MXFP4"
    TRITON = "TRITON"
    TRITON_UNFUSED = "TRITON_UNFUSED"
    XPU = "XPU"
    CPU = "CPU"
    EMULATION = "EMULATION"
    HUMMING = "HUMMING"
    FLASHINFER_MOE_EP_CUTEDSL = "FLASHINFER_MOE_EP_CUTEDSL"
    FLASHINFER_MOE_EP_DEEP_GEMM = "FLASHINFER_MOE_EP_DEEP_GEMM"


class NvFp4MoeBackend(Enum):
    """Backends of NVFP4 layers."""

    B12X = "B12X"
    FLASHINFER_TRTLLM = "FLASHINFER_TRTLLM"
    FLASHINFER_CUTLASS = "FLASHINFER_CUTLASS"
    FLASHINFER_CUTEDSL = "FLASHINFER_CUTEDSL"
    FLASHINFER_CUTEDSL_BATCHED = "FLASHINFER_CUTEDSL_BATCHED"
    FLASHINFER_B12X = "FLASHINFER_B12X"
    VLLM_CUTLASS = "VLLM_CUTLASS"
    MARLIN = "MARLIN"
    HUMMING = "HUMMING"
    EMULATION = "EMULATION"
    FLASHINFER_MOE_EP_CUTEDSL = "FLASHINFER_MOE_EP_CUTEDSL"


class W4A8MoeBackend(Enum):
    """Backends of layers with int4 weights and FP8 activations."""

    CUTLASS = "CUTLASS"
    HUMMING = "HUMMING"


class W4A8Int8MoeBackend(Enum):
    """Backends of layers with int4 weights and int8 activations."""

    CPU_INT4 = "CPU_INT4"
