"""Conversion, quantization config and kernel are those of vLLM's own quantization methods.

GPUs are simulated, so that what needs one fails alike on both sides. vLLM's build for CPUs, where
it is installed, converts and packs for real.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.vllm.processes import report

SAMPLES = Path(__file__).parents[1] / "samples" / "dev"
HAS_CPU_BUILD = importlib.util.find_spec("vllm._C") is not None

simulated = pytest.mark.skipif(HAS_CPU_BUILD, reason="the build for CPUs has no GPU's operators")
real = pytest.mark.skipif(not HAS_CPU_BUILD, reason="needs the build for CPUs")


@pytest.mark.parametrize(
    ("platform", "kernels"),
    [
        pytest.param("cuda-sm90", 40, marks=simulated),
        pytest.param("cuda-sm100", 40, marks=simulated),
        pytest.param("cpu-arm", 5, marks=simulated),
        pytest.param("cpu-x86-amx", 20, marks=real),
    ],
)
def test_a_layers_life_is_as_in_vllm(platform: str, kernels: int) -> None:
    found = report("layer_life", SAMPLES / f"{platform}.jsonl.gz")
    assert found["differ"] == []
    assert found["same"]["kernel"] >= kernels
    assert all(theirs == ours for theirs, ours in found["alphas"].values())
    if platform == "cuda-sm100":
        folded, plain = (found["alphas"][f"nvfp4, {n}"][1] for n in ("VLLM_CUTLASS", "EMULATION"))
        assert folded == pytest.approx(plain * 0.25)
