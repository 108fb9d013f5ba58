"""Oracles given vLLM's own objects, on simulated platforms: one process each.

Without more, the recorded cases that the repository carries are asked; ``MOE_RULES_CASES`` names a
folder with more of them.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.vllm.processes import python, report

HERE = Path(__file__).parent
CASES = Path(os.environ.get("MOE_RULES_CASES", HERE.parent / "samples" / "dev"))


# gfx942 has fewer recorded cases than the others, and is asked those of H100, too.
@pytest.mark.parametrize(
    ("platform", "files"),
    [
        ("cuda-sm90", ["cuda-sm90"]),
        ("cuda-sm100", ["cuda-sm100"]),
        ("rocm-gfx942", ["rocm-gfx942", "cuda-sm90"]),
        ("cpu-x86-amx", ["cpu-x86-amx"]),
        ("cpu-arm", ["cpu-arm"]),
    ],
)
def test_selectors_return_vllms_own_objects_or_errors(platform: str, files: list[str]) -> None:
    found = report("parity", platform, *(CASES / f"{name}.jsonl.gz" for name in files))
    assert found["differences"] == []
    assert found["compared"] == found["selected"] + found["refused"] + sum(
        found["crashes"].values()
    )
    assert found["selected"] > 10
    assert found["refused"] > 20
    # vLLM's own crash: the user's override is read from a model that is not there.
    assert {text.partition(" | ")[0] for text in found["crashes"]} <= {
        "AttributeError: 'NoneType' object has no attribute 'quantization_config'"
    }


def test_the_interface() -> None:
    python("-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "interface.py"))
