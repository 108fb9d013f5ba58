"""The machine as vLLM sees it: facts from vLLM's own probes, in its process.

Tables say which of vLLM's functions answers for a fact. Probes are asked one at a time, because
some import large packages or log: a decision asks those that its rules ask.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from moe_rules.files.releases import Release, nearest, releases
from moe_rules.machines.machine import DEVICE_OF, Machine, facts_of
from moe_rules.vocabulary.fact_values import FactValue
from moe_rules.vocabulary.facts import FACTS

DEVICES = {
    "tpu": "is_tpu",
    "out_of_tree": "is_out_of_tree",
    "rocm": "is_rocm",
    "cuda": "is_cuda",
    "xpu": "is_xpu",
    "cpu": "is_cpu",
    "unspecified": "is_unspecified",
}
"""Kinds of device, and the method of vLLM's platform that says so, in the order vLLM asks."""

FUNCTIONS = {
    "flashinfer": "vllm.utils.flashinfer:has_flashinfer",
    "flashinfer_trtllm_fused_moe": "vllm.utils.flashinfer:has_flashinfer_trtllm_fused_moe",
    "flashinfer_cutlass_fused_moe": "vllm.utils.flashinfer:has_flashinfer_cutlass_fused_moe",
    "flashinfer_cutedsl_grouped_gemm": (
        "vllm.utils.flashinfer:has_flashinfer_cutedsl_grouped_gemm_nt_masked"
    ),
    "flashinfer_cutedsl_moe_nvfp4": "vllm.utils.flashinfer:has_flashinfer_cutedsl_moe_nvfp4",
    "flashinfer_b12x_moe": "vllm.utils.flashinfer:has_flashinfer_b12x_moe",
    "flashinfer_situ_activation": (
        "vllm.model_executor.layers.quantization.utils.flashinfer_utils"
        ":has_flashinfer_situ_activation"
    ),
    "deep_gemm": "vllm.utils.import_utils:has_deep_gemm",
    "triton_kernels": "vllm.utils.import_utils:has_triton_kernels",
    "humming": "vllm.utils.import_utils:has_humming",
    "hpc": "vllm.utils.hpc:has_hpc",
    "quark": "vllm.utils.import_utils:has_quark",
    "b12x_fused_moe": "vllm.utils.b12x:get_b12x_fused_moe",
    "aiter": "vllm._aiter_ops:IS_AITER_FOUND",
    "aiter_fused_moe_gate_mode": "vllm._aiter_ops:rocm_aiter_ops.fused_moe_supports_gate_mode",
    "aiter_fused_moe_quant_dtype_a": (
        "vllm._aiter_ops:rocm_aiter_ops.fused_moe_supports_quant_dtype_a"
    ),
    "amx_tile": "torch:cpu._is_amx_tile_supported",
    "amx_fp8": "vllm._custom_ops:cpu_has_amx_fp8",
}
"""Facts that a function without arguments answers, or a constant."""

OF_CAPABILITY = {
    "cutlass_group_gemm_op": "vllm._custom_ops:cutlass_group_gemm_supported",
    "mxfp4_experts_quant_op": "vllm._custom_ops:mxfp4_experts_quant_supported",
}
"""Facts that a function of the compute capability answers, which is 90 for 9.0."""

OPERATORS = {
    "rdna3_moe_op": ("_rocm_C", ("moe_gptq_gemm_rdna3",)),
    "cpu_fused_moe_int8_op": ("_C", ("cpu_fused_moe_int8",)),
    "zentorch_fused_moe_op": ("zentorch", ("zentorch_fused_moe",)),
    "zentorch_woq_repack_op": ("zentorch", ("zentorch_woq_repack_weight",)),
    "torch_dyn_quant_4bit_ops": (
        "aten",
        ("_dyn_quant_matmul_4bit", "_dyn_quant_pack_4bit_weight"),
    ),
}
"""Facts that operators below ``torch.ops`` answer by being there, by their namespace."""


def vllm_version() -> str | None:
    """The version of the vLLM that this process runs, without what its build adds to it."""
    version = getattr(sys.modules.get("vllm"), "__version__", None)
    return None if version is None else str(version).partition("+")[0]


def vllm_release() -> Release:
    """The release whose tables come nearest to the vLLM that this process runs."""
    return nearest(vllm_version() or "", releases())


class UnknownFactError(LookupError):
    """The vLLM here has no answer to a fact."""


@functools.cache
def this_machine() -> Machine:
    """The machine here, every probe asked; a fact that this vLLM cannot answer is absent."""
    device = this_device()
    return replace(device, software=_answers(facts_of("software")))


def this_device() -> Machine:
    """The device here; of its software nothing is known yet."""
    kind = device_kind()
    own = [name for name in facts_of("platform") if DEVICE_OF.get(name, kind) == kind]
    platform = _answers(own)
    name = platform.get("device_name") or platform.get("gfx") or kind
    return Machine(str(name), platform, software={}, source="vLLM's own probes")


def _answers(names: Iterable[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in names:
        try:
            found[name] = probe(name)
        except UnknownFactError:
            continue
    return found


def platform() -> Any:
    """The platform object of vLLM."""
    return _named("vllm.platforms:current_platform")


def device_kind() -> str:
    """The kind of device that vLLM runs on."""
    here = platform()
    return next(kind for kind, asks in DEVICES.items() if getattr(here, asks)())


def probe(fact: str) -> FactValue:
    """The value of one platform or software fact here.

    Raises UnknownFactError where this vLLM has no such probe, or it fails.
    """
    try:
        if fact in FUNCTIONS:
            answer = _named(FUNCTIONS[fact])
            return bool(answer() if callable(answer) else answer)
        if fact in OF_CAPABILITY:
            capability = platform().get_device_capability()
            return capability is not None and bool(_named(OF_CAPABILITY[fact])(capability.to_int()))
        if fact in OPERATORS:
            namespace, names = OPERATORS[fact]
            operators = _named(f"torch:ops.{namespace}")
            return all(hasattr(operators, name) for name in names)
        return _OTHERS[fact]()
    except (ImportError, AttributeError, LookupError, NotImplementedError, RuntimeError) as error:
        raise UnknownFactError(f"{fact}: {error}") from error


def _named(path: str) -> Any:
    module, _, names = path.partition(":")
    found: Any = importlib.import_module(module)
    for name in names.split("."):
        found = getattr(found, name)
    return found


def _device_name() -> str | None:
    return None if device_kind() in ("cpu", "unspecified") else str(platform().get_device_name())


def _compute_capability() -> FactValue:
    capability = platform().get_device_capability()
    return None if capability is None else (capability.major, capability.minor)


def _cpu_arch() -> str:
    name: str = platform().get_cpu_architecture().name.lower()
    if name not in FACTS["cpu_arch"].values:
        raise UnknownFactError(f"no architecture is known as {name!r}")
    return name


def _b12x_is_supported() -> bool:
    package = _named(FUNCTIONS["b12x_fused_moe"])()
    return package is not None and bool(package.is_supported())


_OTHERS: dict[str, Callable[[], FactValue]] = {
    "device": device_kind,
    "device_name": _device_name,
    "compute_capability": _compute_capability,
    # vLLM keeps the target in this constant only; features may follow it ("gfx942:sramecc+").
    "gfx": lambda: str(_named("vllm.platforms.rocm:_GCN_ARCH")).partition(":")[0],
    "cpu_arch": _cpu_arch,
    "os": lambda: "darwin" if sys.platform == "darwin" else "linux",
    "zen": lambda: bool(platform().is_zen_cpu()),
    "b12x_is_supported": _b12x_is_supported,
}
"""Facts that take more than one call."""
