"""The software facts: which packages, entry points and compiled operators are installed.

Each probe answers what one function of vLLM tests (``vllm/utils/flashinfer.py``,
``utils/import_utils.py``, ``utils/b12x.py``, ``_aiter_ops.py``, ...), but from the files of the
installed packages: importing FlashInfer or torch to learn whether they are there would take
seconds and may initialise the device. So "installed" does not promise that a package also loads
on this machine, and what only running its code could tell stays unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from moe_rules.machines.detection.finding import Finding
from moe_rules.machines.detection.packages import Packages, Presence
from moe_rules.machines.detection.system import System

_CUTE_DSL = "cutlass"
"""The module of nvidia-cutlass-dsl, without which FlashInfer leaves out its CuTe-DSL names."""


@dataclass(frozen=True)
class _EntryPoints:
    """Names that FlashInfer must have for a fact to hold: vLLM's lists of required functions."""

    names: tuple[tuple[str, str], ...]
    needs_cute_dsl: bool = False


_FLASHINFER_ENTRY_POINTS = {
    "flashinfer_trtllm_fused_moe": _EntryPoints(
        (
            ("flashinfer.fused_moe", "trtllm_bf16_moe"),
            ("flashinfer.fused_moe", "trtllm_fp4_block_scale_moe"),
            ("flashinfer.fused_moe", "trtllm_fp8_block_scale_moe"),
            ("flashinfer.fused_moe", "trtllm_fp8_per_tensor_scale_moe"),
            ("flashinfer.fused_moe", "trtllm_mxint4_block_scale_moe"),
        )
    ),
    "flashinfer_cutlass_fused_moe": _EntryPoints(
        (
            ("flashinfer", "fp4_quantize"),
            ("flashinfer", "nvfp4_block_scale_interleave"),
            ("flashinfer.fused_moe", "cutlass_fused_moe"),
            ("flashinfer.fused_moe", "trtllm_fp4_block_scale_moe"),
        )
    ),
    "flashinfer_cutedsl_grouped_gemm": _EntryPoints(
        (
            ("flashinfer", "scaled_fp4_grouped_quantize"),
            ("flashinfer", "silu_and_mul_scaled_nvfp4_experts_quantize"),
            ("flashinfer.cute_dsl.blockscaled_gemm", "grouped_gemm_nt_masked"),
        ),
        needs_cute_dsl=True,
    ),
    "flashinfer_cutedsl_moe_nvfp4": _EntryPoints(
        (("flashinfer", "cute_dsl_fused_moe_nvfp4"),), needs_cute_dsl=True
    ),
    "flashinfer_b12x_moe": _EntryPoints(
        (
            ("flashinfer.cute_dsl.utils", "convert_sf_to_mma_layout"),
            ("flashinfer.fused_moe", "b12x_fused_moe"),
        ),
        needs_cute_dsl=True,
    ),
}

# Packages whose presence alone is the fact; any one of the modules is enough.
_INSTALLED = {
    "deep_gemm": ("deep_gemm", "vllm.third_party.deep_gemm"),
    "triton_kernels": ("triton_kernels", "vllm.third_party.triton_kernels"),
    "humming": ("humming",),
    "hpc": ("hpc",),
    "quark": ("quark",),
    "b12x_fused_moe": ("b12x.moe.fused_moe",),
    "aiter": ("aiter",),
}

# Operators by the package, its library files and the name they register.
_OPERATORS = {
    "cutlass_group_gemm_op": ("vllm", "_C*.so", "cutlass_group_gemm_supported"),
    "mxfp4_experts_quant_op": ("vllm", "_C*.so", "mxfp4_experts_quant_supported"),
    "rdna3_moe_op": ("vllm", "_rocm_C*.so", "moe_gptq_gemm_rdna3"),
    "cpu_fused_moe_int8_op": ("vllm", "_C*.so", "cpu_fused_moe_int8"),
    "zentorch_fused_moe_op": ("zentorch", "*.so", "zentorch_fused_moe"),
    "zentorch_woq_repack_op": ("zentorch", "*.so", "zentorch_woq_repack_weight"),
}

_AITER_PARAMETERS = {
    "aiter_fused_moe_gate_mode": "gate_mode",
    "aiter_fused_moe_quant_dtype_a": "quant_dtype_a",
}

_TORCH_4BIT_OPERATORS = ("_dyn_quant_matmul_4bit", "_dyn_quant_pack_4bit_weight")


def find_software(system: System) -> list[Finding]:
    """One finding for every software fact, known or not, whatever the platform."""
    packages = Packages(system)
    flashinfer = _flashinfer(system, packages)
    findings = [flashinfer]
    for fact, entry_points in _FLASHINFER_ENTRY_POINTS.items():
        if flashinfer.value:
            findings.append(_flashinfer_names(packages, fact, entry_points))
        else:
            findings.append(Finding(fact, False, f"no FlashInfer: {flashinfer.how}"))
    probes: list[Callable[[Packages], Finding]] = [_situ, _b12x_supports, _torch_4bit]
    findings += [probe(packages) for probe in probes]
    findings += [_installed(packages, fact, modules) for fact, modules in _INSTALLED.items()]
    findings += [_operator(packages, fact, *where) for fact, where in _OPERATORS.items()]
    findings += [_aiter(packages, fact, name) for fact, name in _AITER_PARAMETERS.items()]
    return findings


def _flashinfer(system: System, packages: Packages) -> Finding:
    # FlashInfer needs its kernels precompiled (flashinfer-cubin), or nvcc and ninja to build them.
    fact = "flashinfer"
    if packages.folder("flashinfer") is None:
        return Finding(fact, False, "package flashinfer is not installed")
    if system.environ.get("VLLM_HAS_FLASHINFER_CUBIN", "0").strip() not in ("", "0"):
        return Finding(fact, True, "flashinfer is installed, VLLM_HAS_FLASHINFER_CUBIN is set")
    if packages.folder("flashinfer_cubin") is not None:
        return Finding(fact, True, "flashinfer and flashinfer_cubin are installed")
    nvcc, ninja = _nvcc(system), system.which("ninja")
    if nvcc and ninja:
        return Finding(fact, True, f"flashinfer is installed, with {nvcc} and {ninja}")
    missing = " and ".join(name for name, path in (("nvcc", nvcc), ("ninja", ninja)) if not path)
    return Finding(fact, False, f"flashinfer is installed, but neither its cubins nor {missing}")


def _nvcc(system: System) -> str | None:
    home = system.environ.get("CUDA_HOME") or system.environ.get("CUDA_PATH")
    if not home:
        return system.which("nvcc") or system.which(str(system.path("/usr/local/cuda/bin/nvcc")))
    return system.which(f"{home}/bin/nvcc")


def _flashinfer_names(packages: Packages, fact: str, entry_points: _EntryPoints) -> Finding:
    has_cute_dsl = packages.folder(_CUTE_DSL) is not None
    if entry_points.needs_cute_dsl and not has_cute_dsl:
        return Finding(fact, False, "the CuTe DSL (nvidia-cutlass-dsl) is not installed")
    unsure = None
    for module, name in entry_points.names:
        match packages.presence(module, name):
            case Presence.NEVER:
                return Finding(fact, False, f"{module} has no {name}")
            case Presence.UNKNOWN:
                unsure = f"{module} does not show whether it has {name}"
            case Presence.CONDITIONAL if not entry_points.needs_cute_dsl:
                unsure = f"{module} has {name} only under a condition"
    if unsure:
        return Finding.unknown(fact, unsure)
    names = ", ".join(name for _, name in entry_points.names)
    return Finding(fact, True, f"FlashInfer's source has {names}")


def _situ(packages: Packages) -> Finding:
    fact, module = "flashinfer_situ_activation", "flashinfer.fused_moe.core"
    if packages.source(module) is None:
        return Finding(fact, False, f"no module {module}")
    has = packages.class_attribute(module, "ActivationType", "Situ")
    if has is None:
        return Finding.unknown(fact, f"the definition of {module}.ActivationType was not found")
    return Finding(fact, has, f"ActivationType has {'a' if has else 'no'} member Situ")


def _b12x_supports(packages: Packages) -> Finding:
    fact = "b12x_is_supported"
    if packages.source("b12x.moe.fused_moe") is None:
        return Finding(fact, False, "package b12x with moe.fused_moe is not installed")
    return Finding.unknown(fact, "only b12x.moe.fused_moe.is_supported(), run on the device, tells")


def _torch_4bit(packages: Packages) -> Finding:
    # torch ships a header for every operator it has; the library itself has 400 MB to search.
    fact, torch = "torch_dyn_quant_4bit_ops", packages.folder("torch")
    if torch is None:
        return Finding(fact, False, "torch is not installed")
    headers = torch / "include" / "ATen" / "ops"
    if not headers.is_dir():
        return Finding.unknown(fact, "this torch comes without its headers")
    missing = [name for name in _TORCH_4BIT_OPERATORS if not (headers / f"{name}.h").is_file()]
    if missing:
        return Finding(fact, False, f"torch has no operator aten::{missing[0]}")
    return Finding(fact, True, f"torch has aten::{_TORCH_4BIT_OPERATORS[0]}")


def _installed(packages: Packages, fact: str, modules: tuple[str, ...]) -> Finding:
    for module in modules:
        if packages.source(module) is not None:
            return Finding(fact, True, f"{module} is installed (loading it was not tried)")
    return Finding(fact, False, f"{' or '.join(modules)} is not installed")


def _operator(packages: Packages, fact: str, package: str, library: str, name: str) -> Finding:
    if packages.folder(package) is None:
        return Finding(fact, False, f"package {package} is not installed")
    if packages.registers(package, library, name):
        return Finding(fact, True, f"{package}/{library} registers {name}")
    return Finding(fact, False, f"no {package}/{library} registers {name}")


def _aiter(packages: Packages, fact: str, parameter: str) -> Finding:
    if packages.folder("aiter") is None:
        return Finding(fact, False, "package aiter is not installed")
    has = packages.has_parameter("aiter.fused_moe", "fused_moe", parameter)
    if has is None:
        return Finding.unknown(fact, "aiter.fused_moe.fused_moe is not a plain function")
    return Finding(fact, has, f"aiter.fused_moe.fused_moe takes {'' if has else 'no '}{parameter}")
