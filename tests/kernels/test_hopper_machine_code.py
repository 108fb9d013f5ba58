"""The GEMM for Hopper, whose warpgroups share the work: what Triton and ptxas make of it.

Triton's interpreter does not run it: without a GPU, its machine code is all there is to test. What
it computes, ``test_gpu_hopper.py`` tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
triton = pytest.importorskip("triton", minversion="3.6")

SCRIPT = Path(__file__).with_name("hopper_machine_code.py")
TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
GEMMS = ("fp8_block:silu", "fp8_channel:")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (TOOLS / "nvdisasm").exists(), reason="needs Triton's nvdisasm"),
]


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The machine code of each GEMM."""
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    env["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    command = [sys.executable, str(SCRIPT), *GEMMS]
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return dict(zip(GEMMS, json.loads(result.stdout), strict=True))


@pytest.mark.parametrize("gemm", GEMMS)
def test_it_multiplies_with_warpgroups_of_more_registers(code, gemm):
    names = code[gemm]
    # Two warpgroups, two halves of the weight's rows, 128 products in steps of 32.
    assert names.count("QGMMA") == 2 * 2 * 4
    assert "USETMAXREG" in names
    assert "UTMALDG" in names, "the weight comes by TMA"
    assert "LDGSTS" in names, "rows come by asynchronous copies"


@pytest.mark.parametrize("gemm", GEMMS)
def test_sums_stay_in_registers(code, gemm):
    # A few addresses may be spilled; sums would be 64 at once.
    names = code[gemm]
    assert names.count("LDL") + names.count("STL") < 16
