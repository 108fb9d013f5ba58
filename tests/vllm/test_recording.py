"""The recorder, with the real vLLM: recorded decisions come back as they were recorded."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from vllm import __version__

from tools.record.__main__ import main

SAMPLES = Path(__file__).parents[1] / "samples" / "dev"
CASES = Path(os.environ.get("MOE_RULES_CASES", SAMPLES))


@pytest.mark.parametrize("machine", ["cuda-sm90", "rocm-gfx942", "xpu", "cpu-arm", "tpu"])
def test_recorded_cases_come_back(machine: str, tmp_path: Path) -> None:
    cases = CASES / f"{machine}.jsonl.gz"
    options = ["--python", sys.executable, "--out", str(tmp_path), "--machine", machine]
    asked = ["--inputs", str(cases), "--compare", str(cases)]
    assert main([__version__, *options, *asked]) == 0
