"""Where releases of vLLM keep what is recorded: the one place that knows how they differ.

A place is ``module:attribute``. Where releases keep a thing in different places, all of them are
given, the newest first. A thing that a release has in none of its places is :func:`missing`, which
a recording says; the oracles that need it are left out.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

FUSED_MOE = "vllm.model_executor.layers.fused_moe"
_QUANTIZATION = "vllm.model_executor.layers.quantization"
_UTILS = f"{_QUANTIZATION}.utils"


@dataclass(frozen=True)
class OraclePlaces:
    """One oracle: the module below ``fused_moe.oracle``, its names there, and its arguments.

    ``takes`` are the facts that it is given beside the layer, by the names of its parameters;
    ``quant_config`` is the checkpoint. ``classes`` maps a member of ``backends`` to kernel classes.
    ``asks_with`` are the names of the keys that it asks kernels with where they are no arguments;
    ``key_of_backend`` is the function that knows the activation key which a backend is asked with.
    """

    module: str
    select: str
    backends: str
    takes: tuple[str, ...] = ()
    classes: str = "backend_to_kernel_cls"
    asks_with: tuple[str, str | None] | None = None
    key_of_backend: str | None = None

    @property
    def selector(self) -> tuple[str, ...]:
        """The places of the function that selects."""
        return (f"{FUSED_MOE}.oracle.{self.module}:{self.select}",)

    def place(self, name: str) -> tuple[str, ...]:
        """The places of another name; ``module.name`` is one of another oracle's module."""
        module, _, attribute = name.rpartition(".")
        return (f"{FUSED_MOE}.oracle.{module or self.module}:{attribute}",)


_KEYS = ("weight_key", "activation_key")
_MXFP4_KEYS = ("kMxfp4Static", None)
ORACLES = {
    "unquantized": OraclePlaces(
        "unquantized", "select_unquantized_moe_backend", "UnquantizedMoeBackend"
    ),
    "fp8": OraclePlaces(
        "fp8", "select_fp8_moe_backend", "Fp8MoeBackend", (*_KEYS, "allow_vllm_cutlass")
    ),
    "int8": OraclePlaces("int8", "select_int8_moe_backend", "Int8MoeBackend", _KEYS),
    "int_wna16": OraclePlaces(
        "int_wna16",
        "select_wna16_moe_backend",
        "WNA16MoEBackend",
        ("weight_key", "quant_config", "may_have_zp", "may_have_bias", "allow_tile_padding"),
    ),
    "mxfp4": OraclePlaces(
        "mxfp4",
        "select_mxfp4_moe_backend",
        "Mxfp4MoeBackend",
        ("activation_key",),
        asks_with=_MXFP4_KEYS,
        key_of_backend="_backend_activation_key",
    ),
    "mxfp4_deepseek_v4": OraclePlaces(
        "mxfp4",
        "select_deepseek_v4_mxfp4_moe_backend",
        "Mxfp4MoeBackend",
        asks_with=_MXFP4_KEYS,
        key_of_backend="_backend_activation_key",
    ),
    "mxfp8": OraclePlaces(
        "mxfp8",
        "select_mxfp8_moe_backend",
        "fp8.Fp8MoeBackend",
        classes="_mxfp8_backend_to_kernel_cls",
        asks_with=("kMxfp8Static", "kMxfp8Dynamic"),
    ),
    "nvfp4": OraclePlaces("nvfp4", "select_nvfp4_moe_backend", "NvFp4MoeBackend", _KEYS),
    "w4a8": OraclePlaces("w4a8", "select_w4a8_moe_backend", "W4A8MoeBackend", _KEYS),
    "w4a8_int8": OraclePlaces(
        "w4a8_int8", "select_w4a8_int8_moe_backend", "W4A8Int8MoeBackend", _KEYS
    ),
}
"""The oracles, as the tables call them."""

BACKEND_REFUSAL = f"{FUSED_MOE}.oracle.int_wna16:_backend_incompatibility_reason"
"""The function that refuses a backend before its kernels are asked."""

PRIORITY_FUNCTIONS = "_get_priority_backends"
"""How the names of the functions begin that give the order of backends before it is changed."""

ORDER = ("AVAILABLE_BACKENDS", "backends", "priority_backends")
"""Variables of a select function that hold the order of backends, the first one that it has."""

REQUESTED = ("requested_backends", "requested_backend")
"""Variables of a select function that hold what a request by name means."""

PROBES: dict[str, tuple[str, ...]] = {
    "flashinfer": ("vllm.utils.flashinfer:has_flashinfer",),
    "flashinfer_trtllm_fused_moe": ("vllm.utils.flashinfer:has_flashinfer_trtllm_fused_moe",),
    "flashinfer_cutlass_fused_moe": ("vllm.utils.flashinfer:has_flashinfer_cutlass_fused_moe",),
    "flashinfer_cutedsl_grouped_gemm": (
        "vllm.utils.flashinfer:has_flashinfer_cutedsl_grouped_gemm_nt_masked",
    ),
    "flashinfer_cutedsl_moe_nvfp4": ("vllm.utils.flashinfer:has_flashinfer_cutedsl_moe_nvfp4",),
    "flashinfer_b12x_moe": ("vllm.utils.flashinfer:has_flashinfer_b12x_moe",),
    "flashinfer_situ_activation": (f"{_UTILS}.flashinfer_utils:has_flashinfer_situ_activation",),
    "deep_gemm": ("vllm.utils.import_utils:has_deep_gemm",),
    "triton_kernels": ("vllm.utils.import_utils:has_triton_kernels",),
    "humming": ("vllm.utils.import_utils:has_humming",),
    "quark": ("vllm.utils.import_utils:has_quark",),
    "hpc": ("vllm.utils.hpc:has_hpc",),
    "amx_fp8": ("vllm._custom_ops:cpu_has_amx_fp8",),
}
"""vLLM's functions that say whether something is there, and the fact that each stands for."""

B12X_PACKAGE = ("vllm.utils.b12x:get_b12x_fused_moe",)
"""Gives a package that says whether it supports the device, or None."""

COMPILED_IN: dict[str, tuple[str, ...]] = {
    "cutlass_group_gemm_op": ("vllm._custom_ops:cutlass_group_gemm_supported",),
    "mxfp4_experts_quant_op": ("vllm._custom_ops:mxfp4_experts_quant_supported",),
}
"""Functions of a capability that the compiled extension answers, where it has the operator."""

OPERATORS = {
    "rdna3_moe_op": ("rocm", "_rocm_C", "moe_gptq_gemm_rdna3"),
    "cpu_fused_moe_int8_op": ("cpu", "_C", "cpu_fused_moe_int8"),
    "zentorch_fused_moe_op": ("cpu", "zentorch", "zentorch_fused_moe"),
    "zentorch_woq_repack_op": ("cpu", "zentorch", "zentorch_woq_repack_weight"),
}
"""Operators below ``torch.ops`` whose being there is a fact, on their own kind of device."""

AITER = ("vllm._aiter_ops:rocm_aiter_ops",)
"""The class that asks for AITER, in the module that remembers whether it is there."""
AITER_CACHES = ("fused_moe_supports_gate_mode", "fused_moe_supports_quant_dtype_a")
"""Its methods that remember what they found."""

CACHES: tuple[tuple[str, ...], ...] = (
    ("vllm.utils.deep_gemm:is_deep_gemm_supported",),
    (f"{_UTILS}.flashinfer_mxint4_moe:is_flashinfer_mxint4_moe_available",),
)
"""Functions that remember what they found."""

PATCHED_HUMMING = ("vllm.utils.humming:_patched",)
"""Where a release remembers that it has changed Humming, which it does when it first asks it."""

SEES_THE_SYSTEM = (f"{FUSED_MOE}.experts.cpu_moe:sys",)
"""Where a kernel asks for the operating system."""
SEES_TORCH = (f"{FUSED_MOE}.experts.cpu_int4_moe:torch",)
"""Where a kernel looks for torch's products of dynamically quantized int4."""

SURROUNDINGS = {"rocm": {"VLLM_ROCM_USE_AITER_FUSION_SHARED_EXPERTS": "0"}}
"""Switches that are no facts, by kind of device: vLLM has no layer with MoRI without this one."""

CHECKPOINTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "compressed_tensors": (
        "compressed_tensors.quantization:QuantizationArgs",
        ("num_bits", "symmetric", "strategy", "group_size", "actorder"),
    ),
    "auto_awq": (
        f"{_QUANTIZATION}.auto_awq:AutoAWQConfig",
        ("num_bits", "group_size", "zero_point"),
    ),
    "auto_gptq": (
        f"{_QUANTIZATION}.auto_gptq:AutoGPTQConfig",
        ("num_bits", "group_size", "desc_act", "symmetric"),
    ),
    "moe_wna16": (
        f"{_QUANTIZATION}.moe_wna16:MoeWNA16Config",
        ("num_bits", "group_size", "zero_point"),
    ),
    "quark": (f"{_QUANTIZATION}.quark.quark:QuarkConfig", ()),
}
"""The class of each checkpoint format of int_wna16, and the facts that such a checkpoint states."""

SELECTS = r"select_\w*moe_backend"
"""The names of the functions at which selection begins."""

LAYER_CLASSES = ("FusedMoEConfig", "FusedMoEParallelConfig", "MoEActivation")
"""Classes whose properties selection reads."""

MEASURED = (
    "model_executor/layers/fused_moe/*.py",
    "model_executor/layers/fused_moe/oracle/*.py",
    "model_executor/layers/fused_moe/experts/*.py",
    "model_executor/layers/quantization/utils/**/*.py",
    "model_executor/kernels/linear/zentorch_utils.py",
    "utils/deep_gemm.py",
    "_aiter_ops.py",
)
"""The files of vLLM, below its package, in which selection is written."""

_missing: dict[str, None] = {}


def find(places: tuple[str, ...]) -> Any:
    """What is at the first place that the release has, or None, which :func:`missing` knows."""
    module = owner(places)
    if module is None:
        return None
    names = [place.partition(":")[2] for place in places]
    return next(getattr(module, name) for name in names if hasattr(module, name))


def owner(places: tuple[str, ...], *, needed: bool = True) -> Any:
    """The module of the first place that the release has, or None.

    What is ``needed`` and is not there, :func:`missing` knows. Raises what importing a module
    raises, but for one that vLLM does not have.
    """
    for place in places:
        module, _, attribute = place.partition(":")
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "vllm":
                raise
            continue
        if hasattr(found, attribute):
            return found
    if needed:
        _missing[places[0]] = None
    return None


def missing() -> list[str]:
    """What was looked for and is not in this release."""
    return sorted(_missing)


def present_oracles() -> Iterator[str]:
    """The oracles that this release has."""
    for name, places in ORACLES.items():
        if all(find(places.place(n)) for n in (places.select, places.backends, places.classes)):
            yield name
