"""Machines that are not there: a root directory of recorded files, fake drivers and packages."""

from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import pytest

from moe_rules.machines.detection import System

CPUINFO = {
    "epyc": (
        "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\n"
        "model name\t: AMD EPYC 9454\nflags\t\t: fpu sse4_2 avx2 avx512f avx512bw avx512_bf16\n"
    ),
    "epyc-rome": (
        "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 23\nmodel\t\t: 49\n"
        "model name\t: AMD EPYC 7742\nflags\t\t: fpu sse4_2 avx2\n"
    ),
    "icelake": (
        "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 106\n"
        "model name\t: Intel(R) Xeon(R) Platinum 8380\nflags\t\t: fpu avx2 avx512f\n"
    ),
    "sapphire": (
        "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 143\n"
        "model name\t: Intel(R) Xeon(R) Platinum 8480+\n"
        "flags\t\t: fpu avx2 avx512f amx_bf16 amx_tile amx_int8\n"
    ),
    "diamond": (
        "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 19\nmodel\t\t: 1\n"
        "model name\t: Intel(R) Xeon(R)\nflags\t\t: fpu avx512f amx_bf16 amx_tile amx_fp16\n"
    ),
    "power10": "processor\t: 0\ncpu\t\t: POWER10 (architected), altivec supported\n",
    "graviton": "processor\t: 0\nBogoMIPS\t: 2100.00\nFeatures\t: fp asimd bf16 i8mm\n",
}


class FakeNvml:
    """NVML's C interface over a list of (name, uuid, (major, minor))."""

    def __init__(self, gpus: list[tuple[str, str, tuple[int, int]]], init_status: int = 0) -> None:
        self.gpus = gpus
        self.init_status = init_status
        self.started = 0

    def nvmlInit_v2(self) -> int:  # noqa: N802
        self.started += not self.init_status
        return self.init_status

    def nvmlShutdown(self) -> int:  # noqa: N802
        self.started -= 1
        return 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:  # noqa: N802
        count._obj.value = len(self.gpus)
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: Any, handle: Any) -> int:  # noqa: N802
        handle._obj.value = index.value + 1
        return 0

    def nvmlDeviceGetCudaComputeCapability(self, handle: Any, *capability: Any) -> int:  # noqa: N802
        for place, value in zip(capability, self.gpus[handle.value - 1][2], strict=True):
            place._obj.value = value
        return 0

    def nvmlDeviceGetName(self, handle: Any, text: Any, size: Any) -> int:  # noqa: N802
        text.value = self.gpus[handle.value - 1][0].encode()
        return 0

    def nvmlDeviceGetUUID(self, handle: Any, text: Any, size: Any) -> int:  # noqa: N802
        text.value = self.gpus[handle.value - 1][1].encode()
        return 0


class FakeMachine:
    """Builds a :class:`System` whose files and packages are below a temporary folder."""

    def __init__(self, root: Path) -> None:
        self.root = root / "root"
        self.site = root / "site-packages"
        self.root.mkdir()
        self.site.mkdir()
        self.libraries: dict[str, Any] = {}

    def file(self, path: str, text: str) -> None:
        """Write a file below the machine's root."""
        self._write(self.root / path.lstrip("/"), text.encode())

    def package(self, path: str, content: str | bytes = b"") -> None:
        """Write a file below site-packages."""
        data = content.encode() if isinstance(content, str) else content
        self._write(self.site / path, data)

    def nvml(self, *gpus: tuple[str, str, tuple[int, int]], init_status: int = 0) -> FakeNvml:
        """Install an NVIDIA driver that reports these GPUs."""
        self.libraries["libnvidia-ml.so.1"] = FakeNvml(list(gpus), init_status)
        return self.libraries["libnvidia-ml.so.1"]

    def kfd(self, node: int, **properties: int) -> None:
        """Add a node of AMD's KFD topology."""
        text = "".join(f"{name} {value}\n" for name, value in properties.items())
        self.file(f"/sys/class/kfd/kfd/topology/nodes/{node}/properties", text)

    def system(self, machine: str = "x86_64", os: str = "linux", **environ: str) -> System:
        """The machine as detection sees it."""
        return System(
            root=self.root,
            environ=environ,
            sys_platform=os,
            machine=machine,
            load_library=self._load,
            find_spec=lambda name: PathFinder.find_spec(name, [str(self.site)]),
            distribution_version=lambda name: None,
            entry_points=lambda group: [],
            which=lambda name: None,
        )

    def _load(self, name: str) -> Any:
        if name not in self.libraries:
            raise OSError(f"{name}: cannot open shared object file")
        return self.libraries[name]

    @staticmethod
    def _write(path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


@pytest.fixture
def fake(tmp_path: Path) -> FakeMachine:
    return FakeMachine(tmp_path)


@pytest.fixture
def cpu(fake: FakeMachine) -> Callable[..., System]:
    """A machine with a recorded /proc/cpuinfo and nothing else."""

    def build(cpuinfo: str, machine: str = "x86_64", os: str = "linux") -> System:
        fake.file("/proc/cpuinfo", CPUINFO[cpuinfo] + "\nprocessor\t: 1\n")
        return fake.system(machine, os)

    return build
