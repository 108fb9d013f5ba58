"""Where the sources of peers are: ``vendor-bench/``, which git ignores, filled by unpack.py."""

from __future__ import annotations

import lzma
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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


def extension_of(folder: Path, name: str) -> Path:
    """A compiled extension as a file that can be loaded.

    Raises OSError if :mod:`benchmarks.peers.unpack` put none into ``folder``.
    """
    target = Path(tempfile.gettempdir()) / f"moe-rules-{folder.name}" / name
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


def hopper(**more: Any) -> SimpleNamespace:
    """What engines ask their platform, with the answers of a Hopper GPU."""
    no = dict.fromkeys(("is_rocm", "is_xpu", "is_tpu", "is_cpu", "is_fp8_fnuz"), lambda: False)
    yes = dict.fromkeys(("is_cuda", "is_cuda_alike", "supports_fp8"), lambda: True)
    return SimpleNamespace(
        **no,
        **yes,
        is_device_capability=lambda capability: capability == 90,
        has_device_capability=lambda capability: capability <= 90,
        is_device_capability_family=lambda capability: capability == 90,
        fp8_dtype=lambda: torch.float8_e4m3fn,
        import_kernels=lambda: None,
        simple_compile_backend="inductor",
        **more,
    )
