"""The machine code of kernels for Hopper, which Triton compiles without a GPU.

Triton's interpreter does not run kernels in Gluon: without a GPU, their machine code is all there
is to test. Scripts compile them, in a process of their own without the interpreter; tests run
scripts. Nothing is launched: Triton is told of a device that is not there.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import CompiledKernel
from triton.runtime import driver
from triton.runtime.jit import JITFunction

NVDISASM = Path(triton.__file__).parent / "backends/nvidia/bin/nvdisasm"


def of_script(script: Path, words: Sequence[str], cache: Path) -> dict[str, Any]:
    """What ``script`` prints for each of ``words``, its arguments; Triton's cache is ``cache``."""
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    env["TRITON_CACHE_DIR"] = str(cache)
    command = [sys.executable, str(script), *words]
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return dict(zip(words, json.loads(result.stdout), strict=True))


def print_for_words(found: Callable[[str, str], object]) -> None:
    """What a script does: print, as JSON, ``found`` of both parts of each argument, "one:other"."""
    driver.set_active(_hopper())
    CompiledKernel._init_handles = lambda self: None
    with contextlib.redirect_stdout(sys.stderr):
        words = [word.partition(":") for word in sys.argv[1:]]
        result = [found(one, other) for one, _, other in words]
    print(json.dumps(result))


def _hopper() -> SimpleNamespace:
    """What Triton asks of the driver before a launch."""
    return SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", 90, 32),
        get_current_device=lambda: 0,
        get_current_stream=lambda device: 0,
        get_active_torch_device=lambda: torch.device("cpu"),
        launcher_cls=lambda *_: None,
    )


@contextlib.contextmanager
def compiling(*names: str) -> Iterator[list[CompiledKernel]]:
    """Within, kernels are not launched; those of these names are compiled, and listed."""
    found: list[CompiledKernel] = []
    launched = JITFunction.run

    def compile_only(self: JITFunction, *args: object, **options: object) -> None:
        if self.fn.__name__ in names:
            found.append(launched(self, *args, **options | {"warmup": True}))

    JITFunction.run = compile_only
    try:
        yield found
    finally:
        JITFunction.run = launched


def instructions(kernel: CompiledKernel) -> list[str]:
    """The names of the machine code's instructions, in order, with their modifiers."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(kernel.asm["cubin"])
        command = [NVDISASM, "-c", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return re.findall(r"/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9.]+)", text)
