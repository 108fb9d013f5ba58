"""Where the sources of peers are: ``vendor-bench/``, which git ignores, filled by unpack.py."""

from __future__ import annotations

import lzma
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from moe_kernels.benchmark.peers import PeerUnavailableError

SOURCES = Path(__file__).parents[2] / "vendor-bench"


def source_of(package: str) -> Path:
    """The folder of a package's sources. Raises PeerUnavailableError if it is not there."""
    folder = SOURCES / package
    if not folder.is_dir():
        raise PeerUnavailableError(
            f"{folder} is not there; `python -m benchmarks.peers.unpack WHEEL...` fills it"
        )
    return folder


def cache_of(package: str) -> Path:
    """The folder for what is made of a package's sources on this machine."""
    return Path(tempfile.gettempdir()) / f"moe-rules-{package}"


def extension_of(folder: Path, name: str) -> Path:
    """A compiled extension as a file that can be loaded.

    Raises OSError if :mod:`benchmarks.peers.unpack` put none into ``folder``.
    """
    target = cache_of(folder.name) / name
    if not target.exists():
        content = lzma.decompress((folder / f"{name}.xz").read_bytes())
        target.parent.mkdir(exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
            file.write(content)
        Path(file.name).replace(target)  # others may do the same meanwhile
    return target


class Quiet:
    """A logger that says nothing, whatever its methods are called."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


class _Capability(NamedTuple):
    """A compute capability as engines have it."""

    major: int
    minor: int

    def to_int(self) -> int:
        """90 for 9.0."""
        return 10 * self.major + self.minor


def hopper(**more: Any) -> SimpleNamespace:
    """What engines ask their platform, with the answers of a Hopper GPU."""

    def at_least(capability: int | tuple[int, int], device_id: int = 0) -> bool:
        return (
            capability if isinstance(capability, int) else 10 * capability[0] + capability[1]
        ) <= 90

    no = dict.fromkeys(("is_rocm", "is_xpu", "is_tpu", "is_cpu", "is_fp8_fnuz"), lambda: False)
    yes = dict.fromkeys(
        ("is_cuda", "is_cuda_alike", "is_arch_support_pdl", "support_deep_gemm", "supports_fp8"),
        lambda: True,
    )
    return SimpleNamespace(
        **no,
        **yes,
        is_device_capability=lambda capability, device_id=0: capability == 90,
        get_device_capability=lambda device_id=0: _Capability(9, 0),
        has_device_capability=at_least,
        is_device_capability_family=lambda capability, device_id=0: capability == 90,
        fp8_dtype=lambda: torch.float8_e4m3fn,
        import_kernels=lambda: None,
        simple_compile_backend="inductor",
        **more,
    )
