"""vLLM's own Python on a platform that is not there: its code is real, what it probes is not.

vLLM fixes much when it is imported (the FP8 dtype of its keys, branches by platform), so one
process simulates one platform, and :func:`start` must be called before anything imports vLLM.
Simulated are the device and what is installed; every answer that follows from them is vLLM's.
Kernels cannot run.

* CUDA: vLLM's CudaPlatform with another capability. Its compiled extension needs a driver to
  load; three symbols stand for it (:func:`_driver_stub`), and it answers for itself.
* ROCm: RocmPlatform as it is, above an ``amdsmi`` that names the GPU.
* CPU: CpuPlatform with another architecture and other instructions.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

FUSED_MOE = "vllm.model_executor.layers.fused_moe"
ORACLES = (
    "unquantized",
    "fp8",
    "int8",
    "int_wna16",
    "mxfp4",
    "mxfp8",
    "nvfp4",
    "w4a8",
    "w4a8_int8",
)
PROBES = {
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
    "quark": "vllm.utils.import_utils:has_quark",
    "hpc": "vllm.utils.hpc:has_hpc",
    "amx_fp8": "vllm._custom_ops:cpu_has_amx_fp8",
}
"""vLLM's functions that say whether something is there, and the fact that each stands for."""

OPERATORS = {
    "rdna3_moe_op": ("_rocm_C", "moe_gptq_gemm_rdna3"),
    "cpu_fused_moe_int8_op": ("_C", "cpu_fused_moe_int8"),
    "zentorch_fused_moe_op": ("zentorch", "zentorch_fused_moe"),
    "zentorch_woq_repack_op": ("zentorch", "zentorch_woq_repack_weight"),
}
"""Operators below ``torch.ops`` whose being there is a fact, on their own platform."""

CACHES = (
    "vllm.utils.deep_gemm:is_deep_gemm_supported",
    "vllm.model_executor.layers.quantization.utils.flashinfer_mxint4_moe"
    ":is_flashinfer_mxint4_moe_available",
)
"""What vLLM remembers of its probes."""


class World:
    """What the simulated process has: ``software`` facts, and vLLM's current configuration."""

    def __init__(self, platform: Mapping[str, Any]) -> None:
        self.platform = platform
        self.software: dict[str, bool] = {}
        self._environ: dict[str, str] = {}

    def set(
        self,
        software: Mapping[str, bool],
        environ: Mapping[str, str] | None = None,
        engine: Mapping[str, Any] | None = None,
    ) -> None:
        """Install ``software`` and nothing else; ``environ`` and ``engine`` as recorded cases."""
        environ = dict(environ or {})
        if (software, environ) != (self.software, self._environ):
            for name in self._environ:
                os.environ.pop(name, None)
            os.environ.update(environ)
            self.software, self._environ = dict(software), environ
            self._refresh()
        config = importlib.import_module("vllm.config.vllm")
        config._current_vllm_config = _vllm_config(engine or {})

    def _refresh(self) -> None:
        import torch

        kind = self.platform["kind"]
        ops = importlib.import_module("vllm._aiter_ops")
        ops.IS_AITER_FOUND = self.software.get("aiter", False)
        if kind == "rocm":
            _fake_aiter(self.software)
        for fact, (namespace, name) in OPERATORS.items():
            operators = getattr(torch.ops, namespace)
            if (namespace == "_rocm_C") != (kind == "rocm") or kind == "cuda":
                continue
            if self.software.get(fact):
                setattr(operators, name, lambda *args, **kwargs: None)
            else:
                operators.__dict__.pop(name, None)
        ops.rocm_aiter_ops.refresh_env_variables()
        for path in CACHES:
            _named(path).cache_clear()
        for probe in ("fused_moe_supports_gate_mode", "fused_moe_supports_quant_dtype_a"):
            _clear_all(ops.rocm_aiter_ops.__dict__[probe].__func__)


def start(platform: Mapping[str, Any]) -> World:
    """Simulate a platform as recorded cases describe it, and import vLLM's oracles."""
    if "vllm" in sys.modules:
        raise RuntimeError("vLLM fixes its platform when it is imported: start a new process")
    for name in [name for name in os.environ if name.startswith("VLLM_")]:
        del os.environ[name]
    os.environ["VLLM_LOGGING_LEVEL"] = "CRITICAL"
    kind = platform["kind"]
    if kind == "cuda":
        ctypes.CDLL(str(_driver_stub()), mode=ctypes.RTLD_GLOBAL)
    elif kind == "rocm":
        _fake_amdsmi(platform["gcn_arch"])
    platforms = importlib.import_module("vllm.platforms")
    platforms._current_platform = _platform(platform)
    world = World(platform)
    for oracle in ORACLES:
        importlib.import_module(f"{FUSED_MOE}.oracle.{oracle}")
    _replace_probes(world)
    if kind == "cpu":
        _hide_from_cpu_kernels(world)
    _fake_humming()
    config = importlib.import_module(f"{FUSED_MOE}.config")
    group = SimpleNamespace(rank_in_group=0)
    config.get_dp_group = config.get_pcp_group = lambda: group
    config.get_tensor_model_parallel_rank = lambda: 0
    return world


# Platforms ------------------------------------------------------------------------------------


def _platform(spec: Mapping[str, Any]) -> Any:
    kind = spec["kind"]
    if kind == "cuda":
        return _cuda(spec)
    if kind == "rocm":
        return importlib.import_module("vllm.platforms.rocm").RocmPlatform()
    if kind == "cpu":
        return _cpu(spec)
    raise ValueError(f"no simulation of {kind}")


def _cuda(spec: Mapping[str, Any]) -> Any:
    from vllm.platforms.cuda import CudaPlatform
    from vllm.platforms.interface import DeviceCapability

    capability = DeviceCapability(*spec["capability"])
    members = {
        "get_device_capability": classmethod(lambda cls, device_id=0: capability),
        "get_device_name": classmethod(lambda cls, device_id=0: spec["device"]),
        "get_device_total_memory": classmethod(lambda cls, device_id=0: 80 << 30),
        "num_compute_units": classmethod(lambda cls, device_id=0: 132),
    }
    return type("SimulatedCuda", (CudaPlatform,), members)()


def _cpu(spec: Mapping[str, Any]) -> Any:
    import torch
    from vllm.platforms.interface import CpuArchEnum

    module, name = ("zen_cpu", "ZenCpuPlatform") if spec["zen"] else ("cpu", "CpuPlatform")
    base = getattr(importlib.import_module(f"vllm.platforms.{module}"), name)
    arch = CpuArchEnum[spec["arch"].upper()]
    torch.cpu._is_amx_tile_supported = lambda: spec["amx_tile"]
    members = {"get_cpu_architecture": classmethod(lambda cls: arch)}
    return type("SimulatedCpu", (base,), members)()


def _driver_stub() -> Path:
    """A libcuda with the symbols that vLLM's extension is bound to; none of them is called."""
    folder = Path(tempfile.gettempdir()) / f"moe_rules-no-driver-{os.getuid()}"
    library = folder / "libcuda.so.1"
    if not library.exists():
        folder.mkdir(exist_ok=True)
        names = ("cuGetProcAddress_v2", "cuPointerGetAttribute", "cuTensorMapEncodeTiled")
        source = "".join(f"int {name}(void) {{ return 1; }}\n" for name in names)
        flags = ["-shared", "-fPIC", f"-Wl,-soname,{library.name}", "-x", "c", "-", "-o"]
        building = folder / f"{os.getpid()}.so"
        subprocess.run(["cc", *flags, str(building)], input=source, text=True, check=True)
        building.replace(library)
    return library


# What is installed ----------------------------------------------------------------------------


def _replace_probes(world: World) -> None:
    """Let probes answer from the world, in every module of vLLM that has imported them."""
    answers = {}
    for fact, path in PROBES.items():
        answers[id(_named(path))] = _answer(world, fact)
    b12x = importlib.import_module("vllm.utils.b12x")
    package = SimpleNamespace(is_supported=_answer(world, "b12x_is_supported"))
    there = _answer(world, "b12x_fused_moe")
    answers[id(b12x.get_b12x_fused_moe)] = lambda: package if there() else None
    operators = importlib.import_module("vllm._custom_ops")
    for fact, name in (
        ("cutlass_group_gemm_op", "cutlass_group_gemm_supported"),
        ("mxfp4_experts_quant_op", "mxfp4_experts_quant_supported"),
    ):
        real = getattr(operators, name)
        answers[id(real)] = _compiled_in(world, fact, real)
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "vllm" and module is not None:
            for attribute, value in list(vars(module).items()):
                if id(value) in answers:
                    setattr(module, attribute, answers[id(value)])


def _answer(world: World, fact: str) -> Callable[[], bool]:
    def probe() -> bool:
        return bool(world.software.get(fact, world.platform.get(fact, False)))

    return probe


def _compiled_in(world: World, fact: str, real: Callable[[int], bool]) -> Callable[[int], bool]:
    def supported(capability: int) -> bool:
        return world.software.get(fact, False) and real(capability)

    return supported


def _hide_from_cpu_kernels(world: World) -> None:
    """Hide from the modules that look for them what is there: Linux, torch's 4-bit products."""
    import torch

    system = SimpleNamespace(platform=world.platform["os"])
    importlib.import_module(f"{FUSED_MOE}.experts.cpu_moe").sys = system

    class Aten:
        def __getattr__(self, name: str) -> Any:
            if name.startswith("_dyn_quant") and not world.software["torch_dyn_quant_4bit_ops"]:
                raise AttributeError(name)
            return getattr(torch.ops.aten, name)

    class Operators:
        aten = Aten()

        def __getattr__(self, name: str) -> Any:
            return getattr(torch.ops, name)

    class Torch:
        ops = Operators()

        def __getattr__(self, name: str) -> Any:
            return getattr(torch, name)

    importlib.import_module(f"{FUSED_MOE}.experts.cpu_int4_moe").torch = Torch()


def _fake_amdsmi(gfx: str) -> None:
    info = {"target_graphics_version": gfx, "device_id": "0x0", "market_name": gfx}
    _module(
        "amdsmi",
        AmdSmiException=type("AmdSmiException", (Exception,), {}),
        AmdSmiMemoryType=SimpleNamespace(VRAM="VRAM"),
        amdsmi_init=lambda *args: None,
        amdsmi_shut_down=lambda *args: None,
        amdsmi_get_processor_handles=lambda: [object()],
        amdsmi_get_gpu_asic_info=lambda handle: info,
        amdsmi_get_gpu_device_uuid=lambda handle: "0",
        amdsmi_get_gpu_memory_total=lambda handle, kind: 192 << 30,
        amdsmi_topo_get_link_type=lambda *args: {"hops": 1, "type": 2},
        amdsmi_topo_get_numa_node_number=lambda *args: 0,
    )


def _fake_aiter(software: Mapping[str, bool]) -> None:
    """An AITER whose fused_moe has the parameters that vLLM looks for."""
    extra = [n for n in ("gate_mode", "quant_dtype_a") if software.get(f"aiter_fused_moe_{n}")]
    parameters = ", ".join(["hidden_states", "w1", "w2", *(f"{name}=None" for name in extra)])
    scope: dict[str, Any] = {}
    exec(f"def fused_moe({parameters}): raise NotImplementedError", scope)
    _module("aiter")
    _module("aiter.fused_moe", fused_moe=scope["fused_moe"])


def _fake_humming() -> None:
    """The one Enum of Humming that vLLM reads while it selects (humming-kernels 0.1.19)."""
    import enum

    kinds = ("dense", "indexed", "grouped_contiguous", "grouped_masked")
    _module("humming")
    _module("humming.config", GemmType=enum.Enum("GemmType", {k.upper(): k for k in kinds}))


def _module(name: str, **contents: Any) -> None:
    module = types.ModuleType(name)
    module.__path__ = []
    module.__spec__ = ModuleSpec(name, None)
    vars(module).update(contents)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)


def _named(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _clear_all(function: Any) -> None:
    """Clear the cache of a function that may be below decorators."""
    while function is not None:
        clear = getattr(function, "cache_clear", None)
        if clear is not None:
            clear()
        function = getattr(function, "__wrapped__", None)


# vLLM's configuration -------------------------------------------------------------------------


def _vllm_config(engine: Mapping[str, Any]) -> Any:
    """What selection reads of a VllmConfig; ``engine`` as the "runtime" of recorded cases."""
    from vllm.config.quantization import QuantizationConfigArgs, QuantSpec

    override = engine.get("moe_activation_override")
    arguments = None
    if override is not None:
        arguments = QuantizationConfigArgs(moe=QuantSpec(activation=override))
    text = SimpleNamespace(model_type=engine.get("model_type"))
    model = SimpleNamespace(hf_text_config=text, hf_config=text, quantization_config=arguments)
    parallel = SimpleNamespace(
        enable_dbo=engine.get("enable_dbo", False), enable_eplb=engine.get("enable_eplb", False)
    )
    return SimpleNamespace(
        model_config=None if engine.get("no_model_config") else model,
        parallel_config=parallel,
        weight_transfer_config=SimpleNamespace() if engine.get("weight_transfer") else None,
    )
