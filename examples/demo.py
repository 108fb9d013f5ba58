"""The MoE layer of a real model: selected, explained and executed on this machine's CPU.

Every step is a command that can be typed as it is printed. Run by ``make demo``; takes less than
a minute, and leaves GPUs alone (``VLLM_TARGET_DEVICE=cpu`` keeps them from being looked for).
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from moe_rules.cli import main

MODEL = Path(__file__).parent / "models" / "Qwen3-30B-A3B.json"

STEPS = (
    ("Which kernel serves this model's MoE layers here, and why?", "explain", ""),
    ("What would an H100 take for the same layer?", "select", "--machine h100"),
    ("A B200?", "select", "--machine b200"),
    ("Eight MI300X with expert parallelism?", "select", "--machine mi300x --tp 8 --ep"),
    ("Why not FlashInfer on the H100?", "why-not FLASHINFER_CUTLASS", "--machine h100"),
    ("Run the layer on the kernel that was selected here.", "run", "--num-tokens 16"),
)


def demo() -> int:
    """Go through the steps; 0 if each ended as it should."""
    os.environ["VLLM_TARGET_DEVICE"] = "cpu"
    model = MODEL.relative_to(Path.cwd()) if MODEL.is_relative_to(Path.cwd()) else MODEL
    for title, command, options in STEPS:
        arguments = [*shlex.split(command), "--model", str(model), *shlex.split(options)]
        print(f"\n# {title}\n$ moe-rules {shlex.join(arguments)}\n", flush=True)
        code = main(arguments)
        # why-not ends with 1 for a backend that is not selected, which is what it is asked about.
        if code != int(command.startswith("why-not")):
            return code or 1
    return 0


if __name__ == "__main__":
    sys.exit(demo())
