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
_TILES = {
    "AVX2": Tile(width=8, rows=2, tokens=6),
    "AVX512": Tile(width=16, rows=3, tokens=8),
}
"""What was fastest, by what torch uses on x86."""

_OTHER_TILE = Tile(width=8, rows=2, tokens=4)
"""On other CPUs: it fits 32 registers of 4 floats. Not measured."""

_engines: list[Any] = []
"""They own the memory that the code is in."""


def tile() -> Tile | None:
    """What is multiplied at a time; None where it would be slow: on x86 without AVX2."""
    if platform.machine() not in _X86:
        return _OTHER_TILE
    return _TILES.get(torch.backends.cpu.get_cpu_capability())


def _cpu() -> tuple[str, str]:
    """What LLVM calls this CPU, and what it has."""
    # ATEN_CPU_CAPABILITY holds for this code, too.
    if torch.backends.cpu.get_cpu_capability() == "AVX2":
        return "x86-64-v3", ""
    features = dict(binding.get_host_cpu_features())
    if platform.machine() in _X86:
        # The wide vectors that programs ask for, where LLVM would rather halve them.
        features["prefer-256-bit"] = False
    flags = (f"{'+' if on else '-'}{name}" for name, on in features.items())
    return binding.get_host_cpu_name(), ",".join(flags)


def compiled(module: ir.Module) -> int:
    """The address of ``run`` in ``module``. Takes 0.1 to 0.5 seconds."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    name, features = _cpu()
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
