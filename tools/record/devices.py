"""Devices that are not there: vLLM's own platform classes above what this module puts in.

* CUDA: CudaPlatform with another capability. vLLM's compiled extension needs a driver to load;
  three symbols stand for it (:func:`_driver_stub`), and it answers for itself.
* ROCm: RocmPlatform as it is, above an ``amdsmi`` that names the GPU.
* XPU: XPUPlatform as it is, with a ``vllm_xpu_kernels`` that can be imported and no more.
* CPU: CpuPlatform with another architecture and other instructions.
* TPU and out of tree: their platforms live in plugins, so a bare Platform stands for them.
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
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any


def before_import(platform: Mapping[str, Any]) -> None:
    """Put in place what importing vLLM looks for."""
    match platform["kind"]:
        case "cuda":
            ctypes.CDLL(str(_driver_stub()), mode=ctypes.RTLD_GLOBAL)
        case "rocm":
            _fake_amdsmi(platform["gcn_arch"])
        case "xpu":
            sys.meta_path.insert(0, _XpuKernels())


def device(spec: Mapping[str, Any]) -> Any:
    """The platform object of a platform as recorded cases describe it. Raises ValueError."""
    kind = spec["kind"]
    make: Callable[[Mapping[str, Any]], Any] | None = {
        "cuda": _cuda,
        "rocm": lambda spec: _platform_class("rocm", "RocmPlatform")(),
        "xpu": lambda spec: _platform_class("xpu", "XPUPlatform")(),
        "cpu": _cpu,
        "tpu": _plugin,
        "oot": _plugin,
        "unspecified": lambda spec: _platform_class("interface", "UnspecifiedPlatform")(),
    }.get(kind)
    if make is None:
        raise ValueError(f"no simulation of {kind}")
    return make(spec)


def _platform_class(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"vllm.platforms.{module}"), name)


def _cuda(spec: Mapping[str, Any]) -> Any:
    capability = _platform_class("interface", "DeviceCapability")(*spec["capability"])
    members = {
        "get_device_capability": classmethod(lambda cls, device_id=0: capability),
        "get_device_name": classmethod(lambda cls, device_id=0: spec.get("device", "")),
        "get_device_total_memory": classmethod(lambda cls, device_id=0: 80 << 30),
        "num_compute_units": classmethod(lambda cls, device_id=0: 132),
    }
    return type("SimulatedCuda", (_platform_class("cuda", "CudaPlatform"),), members)()


def _cpu(spec: Mapping[str, Any]) -> Any:
    import torch

    module, name = ("zen_cpu", "ZenCpuPlatform") if spec["zen"] else ("cpu", "CpuPlatform")
    base = _platform_class(module, name)
    arch = _platform_class("interface", "CpuArchEnum")[spec["arch"].upper()]
    torch.cpu._is_amx_tile_supported = lambda: spec["amx_tile"]
    members = {"get_cpu_architecture": classmethod(lambda cls: arch)}
    return type("SimulatedCpu", (base,), members)()


def _plugin(spec: Mapping[str, Any]) -> Any:
    kind = spec["kind"]
    base, enum = (_platform_class("interface", n) for n in ("Platform", "PlatformEnum"))
    members = {"_enum": enum[kind.upper()], "device_name": kind, "device_type": kind}
    return type("SimulatedPlugin", (base,), members)()


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


def _fake_amdsmi(gfx: str) -> None:
    info = {"target_graphics_version": gfx, "device_id": "0x0", "market_name": gfx}
    put_module(
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


class _XpuModule(types.ModuleType):
    """A module of which every name can be imported, and is a function that does nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: None


class _XpuKernels(MetaPathFinder, Loader):
    """Finds ``vllm_xpu_kernels`` and everything below it."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] != "vllm_xpu_kernels":
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return _XpuModule(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """There is nothing to execute."""


def put_module(name: str, **contents: Any) -> None:
    """Let ``import name`` find a module with these contents."""
    module = types.ModuleType(name)
    module.__path__ = []
    module.__spec__ = ModuleSpec(name, None)
    vars(module).update(contents)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)
