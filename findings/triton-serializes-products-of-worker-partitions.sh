#!/usr/bin/env bash
# triton 3.6.0 (and the ptxas of CUDA 12.8 in it): products of warpgroups in a worker partition of
# gluon.warp_specialize.
#
# A warpgroup multiplies with its left operand in registers, and begins each product before it waits
# for the one before, so that one is always under way, from iteration to iteration too. One would
# expect the same machine code whether it is the default partition or a worker, as long as it has as
# many registers.
#
# What happens: in the default partition 104 registers suffice. As a worker with 232 the products are
# serialized: ptxas says "insufficient register resources" (C7512) and waits for each instruction
# before the next. Workers are cases of one loop around a switch, through which ptxas carries the
# registers of products under way, into the cases with few registers, too: with the 24 of idle workers
# raised to 80 in the PTX by hand, it does not say so.
#
# Seen:
#   default partition, 104 registers: not serialized
#   worker partition, 232 registers: serialized
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/kernel.py" <<'PY'
import subprocess

import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon._runtime import GluonASTSource
from triton.experimental.gluon.language.nvidia.hopper import warpgroup_mma, warpgroup_mma_wait

PTXAS = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"

@gluon.jit
def multiply(shared, out, steps):
    mma: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 64, 16])
    left: gl.constexpr = gl.DotOperandLayout(0, mma, 2)
    for tile in range(gl.program_id(0), steps, gl.num_programs(0)):
        sums = gl.zeros((64, 64), gl.float32, mma)
        before = gl.zeros((64, 64), gl.bfloat16, left)
        for step in range(steps):
            # Two products an iteration, each begun before the one before it is waited for.
            for half in gl.static_range(2):
                a = gl.full((64, 64), step + half, gl.float32, mma).to(gl.bfloat16)
                a = gl.convert_layout(a, left)
                sums = warpgroup_mma(a, shared.index(half), sums, is_async=True)
                sums = warpgroup_mma_wait(1, deps=(sums, before))[0]
                before = a
        sums = warpgroup_mma_wait(0, deps=(sums, before))[0]
        rows = gl.arange(0, 64, gl.SliceLayout(1, mma))[:, None]
        columns = gl.arange(0, 64, gl.SliceLayout(0, mma))[None, :]
        gl.store(out + tile * 4096 + rows * 64 + columns, sums)

@gluon.jit
def nothing(shared, out, steps):
    pass

@gluon.jit
def kernel(out, steps, OWN: gl.constexpr):
    layout: gl.constexpr = gl.NVMMASharedLayout(128, 16, 2)
    shared = gl.allocate_shared_memory(gl.bfloat16, [2, 64, 64], layout)
    arguments = (shared, out, steps)
    if OWN:
        gl.warp_specialize([(multiply, arguments), (nothing, arguments)], [4], [152])
    else:
        gl.warp_specialize([(nothing, arguments), (multiply, arguments)], [4], [232])

def serialized(own):
    source = GluonASTSource(kernel, {"out": "*fp32", "steps": "i32", "OWN": "constexpr"}, {(2,): own})
    ptx = triton.compile(
        source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4, "maxnreg": 128}
    ).asm["ptx"]
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        command = [PTXAS, "-v", "--gpu-name=sm_90a", file.name, "-o", "/dev/null"]
        said = subprocess.run(command, capture_output=True, text=True, check=True)
    return "serialized" in said.stdout + said.stderr

print(triton.__version__)
for place, own, registers in (("default", True, 104), ("worker", False, 232)):
    found = serialized(own)
    said = "" if found else "not "
    print(f"{place} partition, {registers} registers: {said}serialized")
    assert bool(found) != own
PY
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps "triton==3.6.0"
TRITON_CACHE_DIR="$folder/cache" "$folder/venv/bin/python" "$folder/kernel.py"
