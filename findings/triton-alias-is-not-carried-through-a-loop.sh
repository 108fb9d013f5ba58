#!/usr/bin/env bash
# triton 3.6.0 and 3.9.0: a variable that begins as another's value, and follows it in a loop.
#
# A loop that keeps the number before the present one: `previous = number` before it, and within it
# `previous = number` and then `number += 1`. One would expect `previous` to be the last number but
# one, as in Python, or a compile error.
#
# What happens: which variables a loop carries is found by visiting its body once and comparing the
# values that names have then with those before, by identity. `previous` has the same value object
# before and after that visit, so it counts as unchanged and is not carried: after the loop it is
# the first number. Here nothing of the loop is left. Another name for the first value
# (`previous = number + 0`) is carried. There is no warning.
#
# Seen, for both versions:
#   previous = number: the loop is gone: the id is stored
#   previous = number + 0: the loop is there
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/loops.py" <<'PY'
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def alias(out, n):
    number = tl.program_id(0)
    previous = number
    for _ in range(n):
        previous = number
        number += 1
    tl.store(out, previous)


@triton.jit
def other_value(out, n):
    number = tl.program_id(0)
    previous = number + 0
    for _ in range(n):
        previous = number
        number += 1
    tl.store(out, previous)


def has_loop(kernel):
    # Compiled for a GPU that need not be there.
    source = ASTSource(kernel, {"out": "*i32", "n": "i32"}, {})
    return "scf.for" in triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ttir"]


print(triton.__version__)
found = has_loop(alias)
print(f"previous = number: the loop is {'there' if found else 'gone: the id is stored'}")
assert not found
found = has_loop(other_value)
print(f"previous = number + 0: the loop is {'there' if found else 'gone'}")
assert found
PY
for version in 3.6.0 3.9.0; do
  python3 -m venv "$folder/$version"
  "$folder/$version/bin/pip" install --quiet --disable-pip-version-check --no-deps "triton==$version"
  TRITON_CACHE_DIR="$folder/cache-$version" "$folder/$version/bin/python" "$folder/loops.py"
done
