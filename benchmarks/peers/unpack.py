"""Fills ``vendor-bench/`` with what peers need of their wheels.

``python -m benchmarks.peers.unpack WHEEL...``. Wheels come from PyPI:
``pip download --no-deps vllm==0.33.0 sglang==0.5.23 humming-kernels==0.1.19``. Of vLLM's own
extensions only the code that Hopper GPUs run is kept, compressed, so that the folder is small.
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
    r"model_executor/layers/quantization/utils/(humming/)?[^/]*\.py",
    r"third_party/triton_kernels/.*\.py",
    r"third_party/deep_gemm/.*",
    r"triton_utils/.*\.py",
    r"utils/(deep_gemm|humming|math_utils)\.py",
    r"scalar_type\.py|_custom_ops\.py",
    r"_(moe_)?C_stable_libtorch\.abi3\.so",
)
_SGLANG = (
    r"srt/layers/moe/moe_runner/triton_utils/(.*\.py|configs/.*(H100|H200).*\.json)",
    r"kernels/ops/moe/fused_moe_triton_kernels\.py",
    r"kernels/ops/quantization/int8_kernel\.py",
)
_HUMMING = (r"humming/.*",)
WANTED = {
    "vllm": re.compile("|".join(_VLLM)),
    "sglang": re.compile("|".join(_SGLANG)),
    "humming_kernels": re.compile("|".join(_HUMMING)),
}
"""What is taken of a wheel, by paths below the folder of that name, or in the wheel without one."""

ARCHITECTURE = 90
_FATBIN_MAGIC = struct.pack("<IHH", 0xBA55ED50, 1, 16)  # magic, version, size of the header


def keep_architecture(extension: bytes, architecture: int = ARCHITECTURE) -> bytes:
    """``extension`` with zeros for the device code of other GPUs; its size stays.

    Where a fat binary has nothing for ``architecture``, PTX of older GPUs stays, which the driver
    compiles; all of Marlin's kernels are such. A CUDA fat binary is a header and entries, each with
    a header of its own: kind (2 bytes, 1 is PTX), version (2), size of the header (4) and of what
    follows it (8), and at 28 the architecture.
    """
    data = bytearray(extension)
    start = data.find(_FATBIN_MAGIC)
    while start >= 0:
        (size,) = struct.unpack_from("<Q", data, start + 8)
        entry, end = start + 16, start + 16 + size
        entries = []
        while entry < end:
            (kind,) = struct.unpack_from("<H", data, entry)
            header, payload = struct.unpack_from("<IQ", data, entry + 4)
            (found,) = struct.unpack_from("<I", data, entry + 28)
            entries.append((kind == 1, found, slice(entry + header, entry + header + payload)))
            entry += header + payload
        native = any(found == architecture for _, found, _ in entries)
        for compilable, found, payload_of in entries:
            if found != architecture and (native or not compilable or found > architecture):
                data[payload_of] = bytes(payload_of.stop - payload_of.start)
        start = data.find(_FATBIN_MAGIC, end)
    return bytes(data)


def unpack(wheel: Path, target: Path) -> int:
    """Put what is wanted of ``wheel`` into ``target``; returns its bytes.

    Raises ValueError for a wheel of another package.
    """
    package = wheel.name.split("-")[0]
    if package not in WANTED:
        raise ValueError(f"{wheel}: expected a wheel of {', '.join(WANTED)}")
    folder = target / package
    shutil.rmtree(folder, ignore_errors=True)
    total = 0
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            inside = entry.filename.removeprefix(f"{package}/")
            if entry.is_dir() or not WANTED[package].fullmatch(inside):
                continue
            content = archive.read(entry)
            path = folder / inside
            if path.parent == folder and path.suffix == ".so":
                content = lzma.compress(keep_architecture(content))
                path = path.with_name(f"{path.name}.xz")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            path.chmod(0o644 | entry.external_attr >> 16 & 0o111)
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
