"""The GEMM for Hopper, whose warpgroups share the work: what Triton and ptxas make of it.

Triton's interpreter does not run it: without a GPU, its machine code is all there is to test. What
it computes, ``test_gpu_hopper.py`` tests.
"""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton", minversion="3.6")

import machine_code

SCRIPT = Path(__file__).with_name("hopper_machine_code.py")
SORTED = ("sorted_fp8_block:", "sorted_fp8_channel:silu", "sorted_bf16:")
"""GEMMs of rows that are sorted."""
GEMMS = ("fp8_block:silu", "fp8_channel:", "bf16:silu", "transposed_bf16:swigluoai", *SORTED)
PACKED = {
    "int4:16,128,128,1,8,8": 8,
    "int4:16,128,256,1,8,4": 16,
    "uint8:64,128,128,1,4,3": 16,
    "mxfp4:32,128,128,1,8,6": 8,
    "int4:128,256,128,1,8,3": 16,
    "int4:256,128,128,1,8,3": 8,
}
"""GEMMs with packed weights, and how often a warpgroup multiplies 64 rows of them by 16 columns."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not machine_code.NVDISASM.exists(), reason="needs Triton's nvdisasm"),
]


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The machine code of each GEMM."""
    return machine_code.of_script(SCRIPT, (*GEMMS, *PACKED), tmp_path_factory.mktemp("triton"))


@pytest.mark.parametrize("gemm", GEMMS)
def test_it_multiplies_with_warpgroups_of_more_registers(code, gemm):
    names = code[gemm]
    whole = gemm.endswith("silu") or gemm.startswith("transposed")
    halves = 0 if whole else 1  # of a tile, alone
    if "bf16" in gemm:
        # Two warpgroups, 64 products in steps of 16.
        assert names.count("HGMMA") == 2 * (1 + halves) * 4
    else:
        # Two warpgroups, two halves of the weight's rows, 128 products in steps of 32.
        assert names.count("QGMMA") == 2 * (2 + halves) * 4
    assert "USETMAXREG" in names
    assert "UTMALDG" in names, "the weight comes by TMA"
    assert ("LDGSTS" in names) == (gemm not in SORTED), "rows come by asynchronous copies, or TMA"
    by_tma = gemm in SORTED and gemm.endswith("silu")
    assert ("UTMASTG" in names) == by_tma, "sorted results go by TMA"


@pytest.mark.parametrize("gemm", GEMMS)
def test_sums_stay_in_registers(code, gemm):
    # Addresses of a tile may be spilled; sums would be 64 at once, by both warpgroups.
    names = code[gemm]
    assert names.count("LDL") < 64


@pytest.mark.parametrize("gemm", PACKED)
def test_warpgroups_unpack_while_products_run(code, gemm):
    names = code[gemm]
    assert names.count("HGMMA") in (PACKED[gemm], 2 * PACKED[gemm]), "with half of the rows as well"
    assert "USETMAXREG" in names
    assert "LDSM" in names, "words come to where they are multiplied from"
    assert "LDGSTS" in names, "rows and words come by asynchronous copies"
    # ptxas lets every product wait for the one before it where registers are few.
    assert names.count("WARPGROUP") < names.count("HGMMA")
    # A few addresses may be spilled; fragments of weights would be 32 at once, and read again.
    assert names.count("LDL") + names.count("STL") < 32
