#!/usr/bin/env bash
# triton 3.6.0: the minus before a number is a subtraction from 0.0.
#
# A kernel stores -x, x a float32. One would expect x with the other sign, as in Python, numpy and
# torch: a negation, of 0.0 into -0.0, which ptxas makes a part of the instruction that takes it.
#
# What happens: `-x` is `0.0 - x`. Of 0.0 that is 0.0 (IEEE 754, 6.3), so the sign of zeros is lost,
# and no later pass may make a negation of it: it costs an addition of its own, also before a fused
# multiply-add. `x * -1.0` becomes a negation. In 3.9.0, so does `-x`.
#
# Seen:
#   3.6.0: -x is a subtraction, of 0.0 it is 0.0; x * -1.0 is a negation
#   3.9.0: -x is a negation, of 0.0 it is -0.0; x * -1.0 is a negation
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/minus.py" <<'PY'
import re

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def minus(out, x):
    tl.store(out, -x)


@triton.jit
def minus_zero(out, x):
    tl.store(out, -tl.full((), 0.0, tl.float32))


@triton.jit
def times(out, x):
    tl.store(out, x * -1.0)


def ptx(kernel):
    # Compiled for a GPU that need not be there.
    source = ASTSource(kernel, {"out": "*fp32", "x": "fp32"}, {})
    return triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]


def kind(kernel):
    found = re.findall(r"sub\.f32|xor\.b32\s+%r\d+, %r\d+, -2147483648", ptx(kernel))
    assert len(found) == 1, found
    return "a subtraction" if found[0] == "sub.f32" else "a negation"


(bits,) = re.findall(r"mov\.b32\s+%r\d+, (-?\d+);", ptx(minus_zero))
zero = {"0": "0.0", "-2147483648": "-0.0"}[bits]
print(f"{triton.__version__}: -x is {kind(minus)}, of 0.0 it is {zero}; x * -1.0 is {kind(times)}")
PY
for version in 3.6.0 3.9.0; do
  python3 -m venv "$folder/$version"
  "$folder/$version/bin/pip" install --quiet --disable-pip-version-check --no-deps "triton==$version"
  TRITON_CACHE_DIR="$folder/cache-$version" "$folder/$version/bin/python" -W ignore "$folder/minus.py"
done | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
3.6.0: -x is a subtraction, of 0.0 it is 0.0; x * -1.0 is a negation
3.9.0: -x is a negation, of 0.0 it is -0.0; x * -1.0 is a negation
SEEN
