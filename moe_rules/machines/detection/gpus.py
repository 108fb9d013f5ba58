"""GPUs, found without torch and without creating a device context.

NVIDIA through the driver's management library (NVML, which ``nvidia-smi`` uses), AMD through the
kernel's KFD topology in sysfs, Intel through the DRM devices in sysfs. Several GPUs: the first
visible one stands for all, and a note is left where they differ.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from moe_rules.machines.detection.finding import Finding
from moe_rules.machines.detection.packages import Packages
from moe_rules.machines.detection.system import System

Note = Callable[[str], None]

# The module's SoC as the device tree names it, for Jetson boards whose driver has no NVML.
_TEGRA_CAPABILITIES = {
    "nvidia,tegra194": (7, 2),
    "nvidia,tegra234": (8, 7),
    "nvidia,tegra264": (11, 0),
}
_INTEL_VENDOR = "8086"


@dataclass(frozen=True)
class Gpu:
    """One physical GPU: its driver's index, name and UUID, and what selection is told of it.

    ``kind`` is a compute capability or a gfx target.
    """

    index: int
    name: str
    uuid: str
    kind: tuple[int, int] | str


def visible(gpus: Sequence[Gpu], variable: str, value: str | None, note: Note) -> list[Gpu]:
    """The GPUs that a ``*_VISIBLE_DEVICES`` variable leaves, in its order.

    An entry is an index or the beginning of a UUID; the first invalid one ends the list, as the
    vendors' runtimes have it. MIG instances cannot be matched to a GPU here: then all stay.
    """
    if value is None:
        return list(gpus)
    chosen: list[Gpu] = []
    for entry in value.split(","):
        entry = entry.strip()
        if entry.startswith("MIG-"):
            note(f"{variable} names a MIG instance; taking it to be on any of the GPUs")
            return list(gpus)
        match = [
            gpu
            for gpu in gpus
            if entry == str(gpu.index) or (len(entry) > 4 and gpu.uuid.startswith(entry))
        ]
        if not match:
            break
        chosen.append(match[0])
    if gpus and not chosen:
        note(f"{variable}={value!r} hides all {len(gpus)} GPUs")
    return chosen


def _first(gpus: Sequence[Gpu], note: Note) -> Gpu:
    kinds = {gpu.kind for gpu in gpus}
    if len(kinds) > 1:
        others = ", ".join(f"{gpu.name} ({_kind(gpu)})" for gpu in gpus[1:])
        note(f"GPUs differ: answering for {gpus[0].name} ({_kind(gpus[0])}), not for {others}")
    return gpus[0]


def _kind(gpu: Gpu) -> str:
    return gpu.kind if isinstance(gpu.kind, str) else ".".join(map(str, gpu.kind))


def find_cuda(system: System, note: Note) -> list[Finding]:
    """NVIDIA GPUs. Source: NVML API reference; vLLM's ``platforms/cuda.py`` asks the same."""
    source, gpus = "NVIDIA driver (NVML)", _nvml_gpus(system, note)
    if not gpus:
        source, gpus = "device tree", _jetson_gpus(system)
    value = system.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible(gpus, "CUDA_VISIBLE_DEVICES", value, note)
    if not gpus:
        return []
    gpu = _first(gpus, note)
    how = f"{source}, GPU {gpu.index}; {len(gpus)} visible"
    return [
        Finding("device", "cuda", how),
        Finding("device_name", gpu.name, how),
        Finding("compute_capability", gpu.kind, how),
    ]


def _nvml_gpus(system: System, note: Note) -> list[Gpu]:
    try:
        nvml = system.load_library("libnvidia-ml.so.1")
    except OSError:
        return []
    status = nvml.nvmlInit_v2()
    if status:
        note(f"the NVIDIA driver library is installed but does not start (NVML error {status})")
        return []
    try:
        count = ctypes.c_uint()
        if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)):
            return []
        gpus = [_nvml_gpu(nvml, index) for index in range(count.value)]
        return [gpu for gpu in gpus if gpu is not None]
    finally:
        nvml.nvmlShutdown()


def _nvml_gpu(nvml: Any, index: int) -> Gpu | None:
    handle = ctypes.c_void_p()
    major, minor = ctypes.c_int(), ctypes.c_int()
    name, uuid = ctypes.create_string_buffer(96), ctypes.create_string_buffer(96)
    capability = (ctypes.byref(major), ctypes.byref(minor))
    failed = (
        nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle))
        or nvml.nvmlDeviceGetCudaComputeCapability(handle, *capability)
        or nvml.nvmlDeviceGetName(handle, name, ctypes.c_uint(len(name)))
        or nvml.nvmlDeviceGetUUID(handle, uuid, ctypes.c_uint(len(uuid)))
    )
    if failed:
        return None
    kind = (major.value, minor.value)
    return Gpu(index, name.value.decode(), uuid.value.decode(), kind)


def _jetson_gpus(system: System) -> list[Gpu]:
    model = (system.read("/proc/device-tree/model") or "").strip("\0\n ")
    compatible = (system.read("/proc/device-tree/compatible") or "").split("\0")
    return [
        Gpu(0, model or name, "", _TEGRA_CAPABILITIES[name])
        for name in compatible
        if name in _TEGRA_CAPABILITIES
    ][:1]


def find_rocm(system: System, note: Note) -> list[Finding]:
    """AMD GPUs with a compute driver. Source: Linux ``drivers/gpu/drm/amd/amdkfd`` topology."""
    gpus = _kfd_gpus(system)
    # ROCR filters what HIP then sees; HIP reads CUDA's variable where its own is not set.
    hip = "HIP_VISIBLE_DEVICES"
    hip = hip if system.environ.get(hip) else "CUDA_VISIBLE_DEVICES"
    for variable in ("ROCR_VISIBLE_DEVICES", hip):
        value = system.environ.get(variable) or None
        gpus = visible(gpus, variable, value, note)
        gpus = [Gpu(i, gpu.name, gpu.uuid, gpu.kind) for i, gpu in enumerate(gpus)]
    if not gpus:
        return []
    gpu = _first(gpus, note)
    how = f"KFD topology, GPU {gpu.index}; {len(gpus)} visible"
    named = [Finding("device_name", gpu.name, how)] if gpu.name != gpu.kind else []
    return [Finding("device", "rocm", how), *named, Finding("gfx", gpu.kind, how)]


def _kfd_gpus(system: System) -> list[Gpu]:
    nodes = "/sys/class/kfd/kfd/topology/nodes"
    gpus: list[Gpu] = []
    for node in system.names_in(nodes):
        text = system.read(f"{nodes}/{node}/properties") or ""
        pairs = (line.split() for line in text.splitlines())
        properties = {pair[0]: pair[1] for pair in pairs if len(pair) == 2 and pair[1].isdigit()}
        version = int(properties.get("gfx_target_version", 0))
        if not version:  # a CPU
            continue
        # 90402 is 9.4.2; minor and stepping are hexadecimal digits of the name: gfx942.
        gfx = f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}"
        render = properties.get("drm_render_minor", "")
        product = system.read(f"/sys/class/drm/renderD{render}/device/product_name")
        uuid = f"GPU-{int(properties.get('unique_id', 0)):016x}"
        gpus.append(Gpu(len(gpus), (product or "").strip() or gfx, uuid, gfx))
    return gpus


def find_xpu(system: System, note: Note) -> list[Finding]:
    """Intel GPUs that torch can use: a DRM device, the Level Zero loader, an XPU build of torch.

    Where torch is not installed the first two are enough.
    """
    device = next(filter(None, map(_intel_gpu(system), system.names_in("/sys/class/drm"))), None)
    if device is None:
        return []
    try:
        system.load_library("libze_loader.so.1")
    except OSError:
        note(f"{device} cannot be used: the Level Zero loader (libze_loader.so.1) is missing")
        return []
    packages = Packages(system)
    if packages.folder("torch") is not None and not packages.constant("torch.version", "xpu"):
        note(f"{device} cannot be used: the installed torch is not built for XPU")
        return []
    return [Finding("device", "xpu", f"{device} (DRM) with the Level Zero loader")]


def _intel_gpu(system: System) -> Callable[[str], str | None]:
    def look(node: str) -> str | None:
        if not node.startswith("renderD"):
            return None
        event = system.read(f"/sys/class/drm/{node}/device/uevent") or ""
        fields = dict(line.split("=", 1) for line in event.splitlines() if "=" in line)
        vendor, _, product = fields.get("PCI_ID", "").partition(":")
        return f"Intel GPU {product}" if vendor == _INTEL_VENDOR else None

    return look
