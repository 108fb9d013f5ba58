"""Runs Python in processes of its own: what vLLM fixes when it is imported, it fixes for good."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def python(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run Python from the checkout, ``environ`` added to what is set. Raises if it fails."""
    clean = {n: v for n, v in os.environ.items() if not n.startswith(("VLLM_", "MOE_RULES_"))}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**clean, **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    if done.returncode:
        raise AssertionError(f"{arguments} ended with {done.returncode}\n{done.stderr[-5000:]}")
    return done


def answer(code: str, **environ: str) -> Any:
    """What ``code`` prints as its last line of output, which is JSON."""
    return json.loads(python("-c", textwrap.dedent(code), **environ).stdout.splitlines()[-1])


def report(program: str, *arguments: object) -> Any:
    """The JSON object that one of this folder's programs prints last."""
    done = python("-m", f"tests.vllm.{program}", *map(str, arguments))
    return json.loads(done.stdout.splitlines()[-1])
