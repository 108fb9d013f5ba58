#!/usr/bin/env bash
# vllm 0.33.0: TritonOrDeepGemmExperts with a small hidden size.
#
# For FP8 experts in blocks, DeepGEMM is asked for with Triton as a fallback, which also computes all
# layers of an intermediate size of up to 512. The workspaces of both are made before it is known
# which of them computes, by DeepGEMM's sizes where rows and columns fit its tiles; a comment says
# that these are never less than Triton's. One would expect them to be enough for Triton.
#
# What happens: DeepGEMM's first workspace is counted in FP8 bytes, half of what it was. With hidden
# sizes below twice the intermediate one, and few local experts for the tokens (expert parallelism),
# it has fewer elements than Triton takes for what comes out of the activation; on an H200 that was
# an AssertionError of _resize_cache in the first call with so many tokens.
#
# Seen, without a GPU, for 16 experts on 4 ranks, 4 per token, 600 tokens, hidden 512, intermediate
# 384:
#   DeepGEMM is not for it: 384 <= 512
#   workspace 1 by DeepGEMM: (2944, 256) of 2 bytes, 753664 elements
#   Triton stores (2400, 384), 921600 elements
#   with hidden 1024: 1507328 elements
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
  --python-version 3.12 --platform manylinux_2_28_x86_64 --dest "$folder" vllm==0.33.0

python3 - "$folder"/vllm-*.whl <<'PY'
import ast
import sys
import zipfile
from math import prod
from types import SimpleNamespace as Thing

wheel = zipfile.ZipFile(sys.argv[1])
layer = "vllm/model_executor/layers/fused_moe/"


def tree(path):
    return ast.parse(wheel.read(layer + path))


def function(path, name, within=None):
    """A function of vLLM's, with its own body and without its annotations."""
    body = tree(path).body
    if within:
        body = next(n.body for n in body if isinstance(n, ast.ClassDef) and n.name == within)
    found = next(n for n in body if isinstance(n, ast.FunctionDef) and n.name == name)
    found.decorator_list, found.returns = [], None
    for argument in found.args.args:
        argument.annotation = None
    exec(compile(ast.Module([found], []), path, "exec"), names)
    return names[name]


# What these functions need of torch and DeepGEMM: sizes of dtypes, and the rows of a tile on Hopper.
names = {
    "torch": Thing(float8_e4m3fn=Thing(itemsize=1)),
    "get_mk_alignment_for_contiguous_layout": lambda: [128, 128],
    "round_up": lambda x, y: -(-x // y) * y,
}
deep_gemm, triton = "experts/deep_gemm_moe.py", "experts/triton_moe.py"
function(deep_gemm, "_fp8_workspace_shape")
function("deep_gemm_utils.py", "compute_aligned_M_and_alignment")
fits = function(deep_gemm, "_valid_deep_gemm_shape")
by_deep_gemm = function(deep_gemm, "workspace_shapes", "DeepGemmExperts")
by_triton = function(triton, "workspace_shapes", "TritonExperts")
columns = function("modular_kernel.py", "adjust_N_for_activation", "FusedMoEExpertsModular")
experts = Thing(
    block_shape=[128, 128],
    adjust_N_for_activation=columns,
    workspace_dtype=lambda _: Thing(itemsize=2),
    moe_config=Thing(in_dtype=None),
)
silu = Thing(is_gated=True)

# The limit of what DeepGEMM is used for is in a function that looks at tensors.
limits = [
    ast.unparse(node)
    for node in ast.walk(tree(deep_gemm))
    if isinstance(node, ast.Compare) and ast.unparse(node) == "N <= 512"
]
assert limits, "DeepGEMM is used for other sizes"
print("DeepGEMM is not for it: 384 <= 512")

tokens, topk, intermediate = 600, 4, 384
for hidden in (512, 1024):
    sizes = (tokens, 2 * intermediate, hidden, topk, 16, 4, None, silu)
    assert fits(tokens, 2 * intermediate, hidden), "sizes by DeepGEMM"
    first = by_deep_gemm(experts, *sizes)[0]
    stored = (tokens * topk, intermediate)
    if hidden == 512:
        print(f"workspace 1 by DeepGEMM: {first} of 2 bytes, {prod(first)} elements")
        print(f"Triton stores {stored}, {prod(stored)} elements")
        assert first == (2944, 256)
        assert prod(first) < prod(stored) < prod(by_triton(experts, *sizes)[0])
    else:
        print(f"with hidden {hidden}: {prod(first)} elements")
        assert prod(first) >= prod(stored)
PY
