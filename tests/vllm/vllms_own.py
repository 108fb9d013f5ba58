"""Runs vLLM's own tests of selection on a simulated platform, stock or with the plugin.

Run as ``MOE_RULES_VLLM=on python -m tests.vllm.vllms_own PLATFORM SDIST``: SDIST is vLLM's source
distribution, unpacked or not. Prints one JSON object: the outcome of every test by its name.
"""

from __future__ import annotations

import json
import os
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest

from tools.record import simulation

FILES = (
    "tests/kernels/moe/test_unquantized_backend_selection.py",
    "tests/kernels/moe/test_mxfp8_aiter_backend_selection.py",
    "tests/kernels/moe/test_b12x.py",
    "tests/quantization/test_int8_moe_oracle.py",
)
PLATFORMS = {
    "cuda-sm90": {"kind": "cuda", "capability": [9, 0], "device": "H100"},
    "cuda-sm100": {"kind": "cuda", "capability": [10, 0], "device": "B200"},
    "rocm-gfx942": {"kind": "rocm", "gcn_arch": "gfx942"},
    "rocm-gfx950": {"kind": "rocm", "gcn_arch": "gfx950"},
}


class Outcomes:
    """A plugin of pytest's that keeps what became of every test."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}
        self.why: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.found[report.nodeid] = report.outcome
            if report.failed:
                self.why[report.nodeid] = str(report.longrepr)[-1500:]


def run(platform: str, sdist: Path) -> Outcomes:
    """The outcomes of vLLM's tests; ``MOE_RULES_VLLM`` says who selects."""
    mode = os.environ.get("MOE_RULES_VLLM")
    simulation.start(PLATFORMS[platform]).set({})
    from vllm.plugins import load_general_plugins

    if mode:
        load_general_plugins()
    # vLLM's tests are a package called tests, as these are.
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]
    sys.path.insert(0, str(sdist))
    outcomes = Outcomes()
    options = ["-q", "-p", "no:cacheprovider", "--noconftest", "--rootdir", str(sdist), "-c"]
    options += [os.devnull, "--import-mode=importlib"]
    pytest.main([*options, *(str(sdist / file) for file in FILES)], [outcomes])
    return outcomes


def unpacked(sdist: Path, folder: Path) -> Path:
    """The folder of a source distribution, unpacked below ``folder`` if it is an archive."""
    if sdist.is_dir():
        return sdist
    with tarfile.open(sdist) as archive:
        members = [m for m in archive.getmembers() if m.name.partition("/")[2].startswith("tests/")]
        archive.extractall(folder, members, filter="data")
    (found,) = folder.iterdir()
    return found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        result = run(sys.argv[1], unpacked(Path(sys.argv[2]), Path(folder)))
    print(json.dumps({"outcomes": result.found, "why": result.why}, indent=1))
