"""From the kernel names that rules use to the classes that run.

A name is looked up in this order: what :func:`register` was given, entry points of the group
``moe_rules.kernels`` (name = "module:Class"), this package, vLLM. A rule file may also name a class
by "module:Class", which counts as registered. Nothing is imported before :func:`resolve` is called
for that very name; :func:`available` only looks whether packages are there. The other names are
the class names of vLLM 0.33.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Literal

from moe_rules.vocabulary.fact_values import did_you_mean

ENTRY_POINT_GROUP = "moe_rules.kernels"

Provider = Literal["registered", "entry point", "moe_kernels", "vllm"]
"""Who can provide a kernel, in order of precedence."""
PROVIDERS: tuple[Provider, ...] = ("registered", "entry point", "moe_kernels", "vllm")

_OUR_PACKAGE = "moe_kernels.experts"
_OUR_MODULES: dict[str, tuple[str, ...]] = {
    "triton_experts": ("TritonExperts",),
    "batched_triton_experts": ("BatchedTritonExperts",),
    "int4_emulation_experts": ("Int4EmulationTritonExperts",),
    "quantized_triton_experts": (
        "Mxfp8EmulationTritonExperts",
        "Mxfp8NativeTritonExperts",
        "Nvfp4QuantizationEmulationTritonExperts",
        "OAITritonExperts",
        "OAITritonMxfp4ExpertsMonolithic",
        "OCP_MXQuantizationEmulationTritonExperts",
        "TritonWNA16Experts",
        "UnfusedOAITritonExperts",
    ),
    "cpu_experts": (
        "CPUUnquantizedExperts",
        "X86CPUUnquantizedExperts",
        "ArmCPUUnquantizedExperts",
        "PowerCPUUnquantizedExperts",
        "CPUExpertsFp8",
        "CPUExpertsFp8W8A8",
        "CPUExpertsMxfp4",
        "CPUExpertsInt8",
        "ArmCPUExpertsInt8",
        "PowerCPUExpertsInt8",
        "ZenCPUExpertsInt8",
        "CPUExpertsInt4",
        "ZentorchExpertsInt4",
    ),
}
_OURS = {name: module for module, names in _OUR_MODULES.items() for name in names}
_OUR_OF_ORACLE = {("CPUExpertsInt4", "w4a8_int8"): "cpu_int4_experts"}
"""Where two of our classes have one name, the module of the other, by oracle."""
_CPU_MODULES = {"cpu_experts", "cpu_int4_experts"}

_VLLM_PACKAGE = "vllm.model_executor.layers.fused_moe"
_VLLM_MODULES: dict[str, tuple[str, ...]] = {
    "b12x": ("B12xExperts",),
    "hpc_moe": ("HPCExperts",),
    "experts.aiter_mxfp4_w4a16_moe": ("AiterW4A16ExpertsMonolithic",),
    "experts.aiter_mxfp4_w4a4_moe": ("AiterW4A4ExpertsMonolithic",),
    "experts.aiter_mxfp4_w4a8_moe": ("AiterW4A8ExpertsMonolithic",),
    "experts.aiter_mxfp8_moe": ("AiterMxfp8Experts",),
    "experts.batched_deep_gemm_moe": ("BatchedDeepGemmExperts",),
    "experts.cpu_moe": (
        "ArmCPUExpertsInt8",
        "ArmCPUUnquantizedExperts",
        "CPUExpertsFp8",
        "CPUExpertsFp8W8A8",
        "CPUExpertsInt4",
        "CPUExpertsInt8",
        "CPUExpertsMxfp4",
        "CPUUnquantizedExperts",
        "PowerCPUExpertsInt8",
        "PowerCPUUnquantizedExperts",
        "X86CPUUnquantizedExperts",
        "ZenCPUExpertsInt8",
    ),
    "experts.cutlass_moe": (
        "CutlassBatchedExpertsFp8",
        "CutlassExpertsFp4",
        "CutlassExpertsMxfp4",
        "CutlassExpertsW4A8Fp8",
    ),
    "experts.deep_gemm_moe": ("DeepGemmExperts", "DeepGemmFP4Experts"),
    "experts.flashinfer_b12x_moe": ("FlashInferB12xExperts",),
    "experts.flashinfer_cutedsl_batched_moe": ("FlashInferCuteDSLBatchedExperts",),
    "experts.flashinfer_cutedsl_moe": ("FlashInferCuteDSLExperts",),
    "experts.flashinfer_cutlass_moe": ("FlashInferExperts",),
    "experts.flashinfer_moe_ep": ("FlashInferMoeEpExperts",),
    "experts.fused_batched_moe": ("BatchedTritonExperts",),
    "experts.fused_humming_moe": (
        "BatchedHummingGroupedExperts",
        "HummingGroupedExperts",
        "HummingIndexedExperts",
    ),
    "experts.gpt_oss_triton_kernels_moe": (
        "OAITritonExperts",
        "OAITritonMxfp4ExpertsMonolithic",
        "UnfusedOAITritonExperts",
    ),
    "experts.int4_emulation_moe": ("Int4EmulationTritonExperts",),
    "experts.marlin_moe": ("BatchedMarlinExperts", "MarlinExperts"),
    "experts.moonep_experts": ("MoonEPExperts",),
    "experts.mxfp8_emulation_moe": ("Mxfp8EmulationTritonExperts",),
    "experts.mxfp8_native_moe": ("Mxfp8NativeTritonExperts",),
    "experts.nvfp4_emulation_moe": ("Nvfp4QuantizationEmulationTritonExperts",),
    "experts.ocp_mx_emulation_moe": ("OCP_MXQuantizationEmulationTritonExperts",),
    "experts.rdna3_moe": ("Rdna3WNA16Experts",),
    "experts.rocm_aiter_moe": (
        "AiterExperts",
        "AiterFp8BlockExperts",
        "AiterFp8ChannelExperts",
        "AiterFp8TensorExperts",
        "AiterMxfp4Experts",
        "AiterUnquantizedExperts",
    ),
    "experts.triton_cutlass_moe": ("TritonOrCutlassExperts",),
    "experts.triton_deep_gemm_moe": ("TritonOrDeepGemmExperts",),
    "experts.triton_moe": ("TritonExperts", "TritonWNA16Experts"),
    "experts.trtllm_bf16_moe": ("TrtLlmBf16ExpertsModular", "TrtLlmBf16ExpertsMonolithic"),
    "experts.trtllm_fp8_moe": ("TrtLlmFp8ExpertsModular", "TrtLlmFp8ExpertsMonolithic"),
    "experts.trtllm_lora_moe": ("TrtLlmBf16LoRAExperts", "TrtLlmMxfp4LoRAExperts"),
    "experts.trtllm_mxfp4_moe": ("TrtLlmMxfp4ExpertsModular", "TrtLlmMxfp4ExpertsMonolithic"),
    "experts.trtllm_mxint4_moe": ("TrtLlmMxint4ExpertsMonolithic",),
    "experts.trtllm_nvfp4_moe": ("TrtLlmNvFp4ExpertsModular", "TrtLlmNvFp4ExpertsMonolithic"),
    "experts.xpu_moe": (
        "XPUExperts",
        "XPUExpertsBlockFp8",
        "XPUExpertsFp8",
        "XPUExpertsMxFp4",
        "XPUExpertsMxFp8",
        "XPUExpertsWNA16",
    ),
    "experts.zentorch_moe": ("ZentorchExpertsInt4",),
}
_VLLM = {name: module for module, names in _VLLM_MODULES.items() for name in names}
_VLLM_OF_ORACLE = {("CPUExpertsInt4", "w4a8_int8"): "experts.cpu_int4_moe"}
"""Where vLLM has two classes of one name, the module of the other, by oracle."""

_GET = {
    "vllm": "pip install vllm",
    "torch": "pip install 'moe-rules[kernels]'",
    "triton": "pip install 'moe-rules[kernels]'",
    "flashinfer": "pip install flashinfer-python",
    "deep_gemm": "see https://github.com/deepseek-ai/DeepGEMM",
    "aiter": "see https://github.com/ROCm/aiter",
    "zentorch": "pip install zentorch",
    "vllm_xpu_kernels": "see https://github.com/vllm-project/vllm-xpu-kernels",
}
"""How to get the packages that kernels are in, by import name."""

_ALSO_NEEDS = {
    "FlashInfer": "flashinfer",
    "TrtLlm": "flashinfer",
    "Aiter": "aiter",
    "XPU": "vllm_xpu_kernels",
    "Zentorch": "zentorch",
}
"""What vLLM's classes whose names start so import when they run. (vLLM brings DeepGEMM along.)"""


class KernelUnavailableError(ImportError):
    """A kernel's package is not installed. The message says which, and how to get it."""


@dataclass(frozen=True)
class Available:
    """The kernel can be resolved: to ``target`` ("module:Class"), by ``provider``."""

    name: str
    provider: Provider
    target: str


@dataclass(frozen=True)
class Unavailable:
    """The kernel cannot be resolved: ``reason`` says why, ``remedy`` what would help."""

    name: str
    reason: str
    remedy: str


Availability = Available | Unavailable

_registered: dict[str, str | type] = {}


def register(name: str, target: str | type) -> None:
    """Bind ``name`` to a class or a "module:Class" path, before any other provider.

    Raises ValueError for a path of another form, TypeError for what is neither, and for a name
    that is no text.
    """
    _check_name(name)
    if isinstance(target, str):
        _split(name, target)
    elif not isinstance(target, type):
        raise TypeError(f"kernel {name}: expected a class or 'module:Class', got {target!r}")
    _registered[name] = target


def unregister(name: str) -> None:
    """Undo :func:`register`; a name that is not registered is left alone."""
    _registered.pop(name, None)


def names() -> tuple[str, ...]:
    """Every kernel name that somebody provides, sorted."""
    return tuple(sorted({*_registered, *_entry_points(), *_OURS, *_VLLM}))


def our_names() -> tuple[str, ...]:
    """The kernel names that this package has a class for, sorted."""
    return tuple(sorted(_OURS))


def runs_on_cpu(name: str) -> bool:
    """Whether ``name`` is one of this package's kernels for CPUs."""
    return _OURS.get(name) in _CPU_MODULES


def unpacks_in_triton(name: str) -> bool:
    """Whether ``name`` is one of this package's Triton kernels that unpack quantized weights."""
    return _OURS.get(name) == "quantized_triton_experts"


def available(
    name: str, *, provider: Provider | None = None, oracle: str | None = None
) -> Availability:
    """Whether and from where ``name`` resolves, importing no kernel.

    ``provider`` asks one provider only; ``oracle`` tells apart classes of one name. For vLLM this
    says that vLLM and the package its class needs are installed, not that the class works here.
    Raises ValueError for a provider that does not exist, TypeError for a name that is no text.
    """
    missing: Unavailable | None = None
    for candidate in PROVIDERS if provider is None else (provider,):
        target = _target(name, candidate, oracle)
        if target is None:
            continue
        lacking = [p for p in _packages(name, candidate, target) if not _installed(p)]
        if not lacking:
            return Available(name, candidate, target)
        package = lacking[0]
        missing = Unavailable(
            name,
            f"{candidate} has it as {target}, but {package} is not installed",
            _GET.get(package, f"install {package}"),
        )
    if missing is not None:
        return missing
    by = "nobody" if provider is None else f"not {provider}"
    return Unavailable(
        name,
        f"{by} provides a kernel of this name",
        f"moe_kernels.registry.register({name!r}, 'module:Class') binds it to a class",
    )


def located(name: str, provider: Provider, *, oracle: str | None = None) -> str | None:
    """Where a provider has the class, as "module:Class", or None; it need not be installed."""
    return _target(name, provider, oracle)


def resolve(name: str, *, provider: Provider | None = None, oracle: str | None = None) -> type:
    """The class called ``name``; arguments as in :func:`available`.

    Raises KernelUnavailableError, which names the missing package, if it cannot be had.
    """
    found = available(name, provider=provider, oracle=oracle)
    if isinstance(found, Unavailable):
        raise KernelUnavailableError(f"kernel {name}: {found.reason}; {found.remedy}")
    target: str | type = found.target
    if found.provider == "registered":
        target = _registered.get(name, target)
    return target if isinstance(target, type) else load(name, found.provider, found.target)


def load(name: str, provider: Provider, target: str) -> type:
    """The class at a provider's ``target``. Raises KernelUnavailableError if it does not import."""
    module, attribute = _split(name, target)
    try:
        cls = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise KernelUnavailableError(
            f"kernel {name}: {provider} has it as {target}, which does not import: {error}"
        ) from error
    if not isinstance(cls, type):
        raise KernelUnavailableError(f"kernel {name}: {target} is not a class but {cls!r}")
    return cls


def _check_name(name: str) -> None:
    if not isinstance(name, str):
        raise TypeError(f"kernels are named by text, as 'TritonExperts', got {name!r}")


def _split(name: str, target: str) -> tuple[str, str]:
    module, colon, attribute = target.partition(":")
    if not (module and colon and attribute):
        raise ValueError(f"kernel {name}: expected 'module:Class', got {target!r}")
    return module, attribute


@cache
def _entry_points() -> dict[str, str]:
    return {entry.name: entry.value for entry in entry_points(group=ENTRY_POINT_GROUP)}


def _target(name: str, provider: Provider, oracle: str | None) -> str | None:
    _check_name(name)
    if provider not in PROVIDERS:
        hint = did_you_mean(provider, PROVIDERS)
        known = ", ".join(PROVIDERS)
        raise ValueError(f"nobody called {provider!r} provides kernels{hint} (known: {known})")
    if provider == "registered":
        target = _registered.get(name, name if ":" in name else None)
        if isinstance(target, type):
            return f"{target.__module__}:{target.__qualname__}"
        return target
    if provider == "entry point":
        return _entry_points().get(name)
    if provider == "moe_kernels":
        module = _OUR_OF_ORACLE.get((name, oracle or ""), _OURS.get(name))
        return None if module is None else f"{_OUR_PACKAGE}.{module}:{name}"
    module = _VLLM_OF_ORACLE.get((name, oracle or ""), _VLLM.get(name))
    return None if module is None else f"{_VLLM_PACKAGE}.{module}:{name}"


def _packages(name: str, provider: Provider, target: str) -> list[str]:
    """Top-level packages that the class needs to be imported and run."""
    if provider == "moe_kernels":
        cpu = target.partition(":")[0].rpartition(".")[2] in _CPU_MODULES
        return ["torch"] if cpu else ["torch", "triton"]
    if provider == "registered" and isinstance(_registered.get(name), type):
        return []
    packages = [target.partition(".")[0].partition(":")[0]]
    if provider == "vllm":
        packages += [p for prefix, p in _ALSO_NEEDS.items() if name.startswith(prefix)]
    return packages


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False
