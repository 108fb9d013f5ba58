"""Fills ``vendor-bench/`` with what peers need of their wheels.

``python -m benchmarks.peers.unpack WHEEL...``. Wheels come from PyPI:
``pip download --no-deps vllm==0.33.0 sglang==0.5.23``. Of compiled extensions only the code of
Hopper GPUs is kept, compressed, so that the folder is small.
"""

from __future__ import annotations

import argparse
import lzma
import re
import shutil
import struct
import zipfile
from pathlib import Path

from benchmarks.peers.sources import SOURCES

_VLLM = (
    r"model_executor/layers/fused_moe/(.*\.py|configs/.*(H100|H200).*\.json)",
    r"model_executor/layers/quantization/utils/[^/]*\.py",
    r"third_party/triton_kernels/.*\.py",
    r"triton_utils/.*\.py",
    r"utils/math_utils\.py",
    r"scalar_type\.py|_custom_ops\.py",
    r"_(moe_)?C_stable_libtorch\.abi3\.so",
)
_SGLANG = (
    r"srt/layers/moe/moe_runner/triton_utils/(.*\.py|configs/.*(H100|H200).*\.json)",
    r"kernels/ops/moe/fused_moe_triton_kernels\.py",
    r"kernels/ops/quantization/int8_kernel\.py",
)
WANTED = {"vllm": re.compile("|".join(_VLLM)), "sglang": re.compile("|".join(_SGLANG))}

ARCHITECTURE = 90
_FATBIN_MAGIC = struct.pack("<IHH", 0xBA55ED50, 1, 16)  # magic, version, size of the header


def keep_architecture(extension: bytes, architecture: int = ARCHITECTURE) -> bytes:
    """``extension`` with zeros for the device code of other GPUs; its size stays.

    A CUDA fat binary is a header and entries, each with a header of its own: kind (2 bytes),
    version (2), size of the header (4) and of what follows it (8), and at 28 the architecture.
    """
    data = bytearray(extension)
    start = data.find(_FATBIN_MAGIC)
    while start >= 0:
        (size,) = struct.unpack_from("<Q", data, start + 8)
        entry, end = start + 16, start + 16 + size
        while entry < end:
            header, payload = struct.unpack_from("<IQ", data, entry + 4)
            (found,) = struct.unpack_from("<I", data, entry + 28)
            if found != architecture:
                data[entry + header : entry + header + payload] = bytes(payload)
            entry += header + payload
        start = data.find(_FATBIN_MAGIC, end)
    return bytes(data)


def unpack(wheel: Path, target: Path) -> int:
    """Put what is wanted of ``wheel`` into ``target``; returns its bytes.

    Raises ValueError for a wheel of another package.
    """
    package = wheel.name.split("-")[0]
    if package not in WANTED:
        raise ValueError(f"{wheel}: expected a wheel of {' or '.join(WANTED)}")
    folder = target / package
    shutil.rmtree(folder, ignore_errors=True)
    total = 0
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            inside = name.removeprefix(f"{package}/")
            if inside == name or not WANTED[package].fullmatch(inside):
                continue
            content = archive.read(name)
            path = folder / inside
            if path.suffix == ".so":
                content = lzma.compress(keep_architecture(content))
                path = path.with_name(f"{path.name}.xz")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            total += len(content)
    return total


def main() -> None:
    """Unpack the wheels that are named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.unpack", description=__doc__)
    parser.add_argument("wheels", nargs="+", type=Path, metavar="WHEEL")
    for wheel in parser.parse_args().wheels:
        size = unpack(wheel, SOURCES)
        print(f"{wheel.name}: {size / 1e6:.1f} MB in {SOURCES}")


if __name__ == "__main__":
    main()
