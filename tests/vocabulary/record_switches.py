"""Records what vLLM makes of odd text in the switches of the vocabulary; run by vLLM's Python.

    python tests/vocabulary/record_switches.py tests/vocabulary/switch_readings.json

It needs vLLM 0.33.0 to be importable, and nothing of ours: the names are those of the record.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
from pathlib import Path
from typing import Any

COMMAND = "python tests/vocabulary/record_switches.py tests/vocabulary/switch_readings.json"
TEXTS = (
    "", "0", "1", "2", "-1", "+1", "00", " 1 ", "1_0", "1.0", "0x1", "٣", "true", "True", "TRUE",
    "tRuE", " true", "false", "yes", "on", "off", "none", "unset", "auto", "AUTO", "indexed",
    "Grouped", "grouped_masked", "any other",
)  # fmt: skip
GEMM_TYPE = "VLLM_HUMMING_MOE_GEMM_TYPE"
ATTRIBUTES = {
    "VLLM_ROCM_USE_AITER": "_AITER_ENABLED",
    "VLLM_ROCM_USE_AITER_MOE": "_FMOE_ENABLED",
}


def reading(name: str) -> Any:
    """What vLLM reads from the variable, or the type of the error by which it fails."""
    from vllm import envs

    try:
        return getattr(envs, name)
    except Exception as error:
        return {"error": type(error).__name__}


def used_gemm_type() -> str:
    """What vLLM makes of the text of :data:`GEMM_TYPE`, for a layer without expert parallelism."""
    from vllm.model_executor.layers.fused_moe.experts import fused_humming_moe

    return str(fused_humming_moe.get_humming_moe_gemm_type())


def kept_from_import() -> list[str]:
    """Switches whose value vLLM keeps in an attribute of a class from its import on."""
    from vllm._aiter_ops import rocm_aiter_ops

    kept = []
    for name, attribute in ATTRIBUTES.items():
        before = getattr(rocm_aiter_ops, attribute)
        os.environ[name] = str(not before)
        assert reading(name) is not before
        if getattr(rocm_aiter_ops, attribute) is before:
            kept.append(name)
        del os.environ[name]
    return kept


def main(path: Path) -> None:
    """Write the record anew for the names that it has."""
    names = list(json.loads(path.read_text())["readings"])
    readings: dict[str, dict[str, Any]] = {}
    used: dict[str, str] = {}
    for name in names:
        os.environ.pop(name, None)
        found = {"unset": reading(name), "texts": {}}
        for text in TEXTS:
            os.environ[name] = text
            found["texts"][text] = reading(name)
            if name == GEMM_TYPE:
                used[text] = used_gemm_type()
        del os.environ[name]
        readings[name] = found
    record = {
        "command": COMMAND,
        "vllm": importlib.metadata.version("vllm"),
        "readings": readings,
        "used_gemm_types": used,
        "kept_from_import": kept_from_import(),
    }
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
