"""The programs for few rows: what Triton and ptxas make of them.

Triton's interpreter does not run them: without a GPU, their machine code is all there is to test.
What they compute, ``test_gpu_few_rows.py`` tests.
"""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton", minversion="3.6")

import machine_code

SCRIPT = Path(__file__).with_name("few_rows_machine_code.py")
LAYERS = ("bf16:1", "fp8_block:1", "int4:1", "int4:5", "int8:1", "mxfp4:1", "mxfp4:40")
OF_ONE_TOKEN = [name for name in LAYERS if name.endswith(":1")]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not machine_code.NVDISASM.exists(), reason="needs Triton's nvdisasm"),
]


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[str]]]:
    """The machine code of both GEMMs of each layer."""
    return machine_code.of_script(SCRIPT, LAYERS, tmp_path_factory.mktemp("triton"))


@pytest.mark.parametrize("layer", LAYERS)
def test_weights_come_in_wide_loads_and_stay_in_registers(code, layer):
    up, down = code[layer]
    for names in (up, down):
        assert names.count("LDG.E.128") >= 2, "two chunks at a time"
        assert any(name.startswith("HMMA.16816.F32") for name in names)
        assert not any(name.startswith(("LDGSTS", "LDL", "STL")) for name in names)
        last = max(place for place, name in enumerate(names) if name.startswith("HMMA"))
        assert not any(name.startswith("LDSM") for name in names[:last]), "but sums"


@pytest.mark.parametrize("layer", OF_ONE_TOKEN)
def test_of_one_token_weights_are_asked_for_first(code, layer):
    up, _ = code[layer]
    barrier = next(place for place, name in enumerate(up) if name.startswith("BAR"))
    assert up[:barrier].count("LDG.E.128") >= 4, "of 16 rows, twice"


@pytest.mark.parametrize("layer", OF_ONE_TOKEN)
def test_warps_of_one_token_wait_for_each_other_before_products_and_after(code, layer):
    for names in code[layer]:
        products = [place for place, name in enumerate(names) if name.startswith("HMMA")]
        barriers = [place for place, name in enumerate(names) if name.startswith("BAR")]
        assert not any(products[0] < place < products[-1] for place in barriers), "in no turn"
        assert sum(place > products[-1] for place in barriers) <= 2, "their sums are added up"


@pytest.mark.parametrize("layer", ["int4:1", "int4:5", "int8:1"])
def test_words_are_multiplied_as_they_are(code, layer):
    for names in code[layer]:
        products = sum(name.startswith("HMMA") for name in names)
        packed = sum(name.startswith(("HFMA2", "HMUL2")) for name in names)
        assert packed <= 2 * products, "tokens alone are raised"
