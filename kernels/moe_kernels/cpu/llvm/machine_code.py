"""Programs compiled for this CPU, and run by the threads that torch has started for itself."""

from __future__ import annotations

import ctypes
import functools
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from llvmlite import binding, ir

from moe_kernels.cpu.llvm.programs import Tile

_X86 = ("x86_64", "AMD64")
_LEVELS = {
    "AVX2": ("x86-64-v3", Tile(width=8, rows=2, tokens=6)),
    "AVX512": ("x86-64-v4", Tile(width=16, rows=3, tokens=8)),
}
"""What torch uses: how LLVM calls CPUs that have it, and the tile that was fastest there."""

_OTHER_TILE = Tile(width=8, rows=2, tokens=4)
"""On other CPUs: it fits 32 registers of 4 floats. Not measured."""

_engines: list[Any] = []
"""They own the memory that the code is in."""


def on_x86() -> bool:
    """Whether this is x86, where the code follows what torch uses, ``ATEN_CPU_CAPABILITY`` too."""
    return platform.machine() in _X86


def supported() -> bool:
    """Whether programs are fast here: on x86 not before AVX2."""
    return not on_x86() or _LEVELS.get(torch.backends.cpu.get_cpu_capability()) is not None


def tile() -> Tile:
    """What fits this CPU's registers."""
    return _LEVELS[torch.backends.cpu.get_cpu_capability()][1] if on_x86() else _OTHER_TILE


def compiled(module: ir.Module) -> int:
    """The address of ``run`` in ``module``. Takes 0.1 to 0.5 seconds."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    # The wide vectors that programs ask for, where LLVM would rather halve them.
    if on_x86():
        name, features = _LEVELS[torch.backends.cpu.get_cpu_capability()][0], "-prefer-256-bit"
    else:
        name, features = binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten()
    machine = binding.Target.from_default_triple().create_target_machine(
        cpu=name, features=features, opt=3, jit=True
    )
    parsed = binding.parse_assembly(str(module))
    passes = binding.create_pass_builder(
        machine, binding.create_pipeline_tuning_options(speed_level=2)
    )
    passes.getModulePassManager().run(parsed, passes)
    engine = binding.create_mcjit_compiler(parsed, machine)
    engine.finalize_object()
    _engines.append(engine)
    return int(engine.get_function_address("run"))


def run(program: int, arguments: ctypes.Array[ctypes.c_int64], parallel: bool) -> None:
    """Call ``program`` on every thread of torch, or on this one; other Python threads go on."""
    team = _team() if parallel else None
    if team is None:
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(program)(ctypes.addressof(arguments))
    else:
        team(program, ctypes.addressof(arguments), torch.get_num_threads(), 0)


@functools.cache
def _team() -> Callable[..., None] | None:
    """OpenMP's function that torch itself calls, or None where it goes by another name.

    Threads of another pool would wait for torch's, which go on spinning after each operator.
    """
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        team = ctypes.CDLL(str(library)).GOMP_parallel
    except (OSError, AttributeError):
        return None
    team.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    team.restype = None
    return team
