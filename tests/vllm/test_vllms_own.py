"""vLLM's own tests of selection: with the plugin, all pass that do not replace vLLM's insides."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.vllm.processes import python

SDIST = next(iter((Path(sys.prefix) / "sdist").glob("vllm-*.tar.gz")), None)

TRTLLM = "TrtLlmBf16ExpertsMonolithic.is_supported_config"
BASE = "TrtLlmBf16ExpertsBase._supports_current_device"
B12X = "B12xExperts._supports_current_device"
REPLACED = {
    "test_select_cuda_flashinfer_trtllm_backend": TRTLLM,
    "test_select_cuda_flashinfer_trtllm_modular_backend": TRTLLM,
    "test_select_cuda_flashinfer_trtllm_modular_for_standard_all2all": BASE,
    "test_select_cuda_flashinfer_trtllm_ag_rs_uses_monolithic": BASE,
    "test_select_cuda_flashinfer_cutlass_backend": "FlashInferExperts.is_supported_config",
    "test_explicit_b12x_mxfp4_selection": B12X,
    "test_explicit_b12x_mxfp4_force_a16_uses_a16_contract": B12X,
    "test_deepseek_v4_b12x_activation_selection": B12X,
    "test_deepseek_v4_flashinfer_cutlass_falls_through_to_w4a8": (
        "FlashInferExperts._supports_current_device and _supports_quant_scheme"
    ),
    "test_b12x_mxfp4_falls_back_to_a16": B12X,
    "test_explicit_b12x_nvfp4_selection": "B12xExperts.is_supported_config",
    "test_select_rocm_aiter_backend": "rocm_aiter_ops.is_fused_moe_enabled",
    "test_gfx942_picks_emulation": "supports_mx of the platform",
}
"""Tests that put something in the place of what a kernel of vLLM's says of itself, and of what.

The tables say what a kernel supports, so what is put there is not asked.
"""


@pytest.mark.skipif(SDIST is None, reason="vLLM's source distribution is not in this environment")
@pytest.mark.parametrize(("platform", "least"), [("cuda-sm90", 40), ("rocm-gfx950", 45)])
def test_vllms_own_tests(platform: str, least: int) -> None:
    def outcomes(**environ: str) -> dict[str, str]:
        printed = python("-m", "tests.vllm.vllms_own", platform, str(SDIST), **environ).stdout
        found: dict[str, str] = json.loads(printed[printed.index('{\n "outcomes"') :])["outcomes"]
        return found

    stock, plugin = outcomes(), outcomes(MOE_RULES_VLLM="on")
    passed = [name for name, outcome in stock.items() if outcome == "passed"]
    lost = [name for name in passed if plugin[name] != "passed"]
    functions = {name.rpartition("::")[2].partition("[")[0] for name in lost}
    assert functions <= set(REPLACED)
    assert len(passed) - len(lost) >= least
