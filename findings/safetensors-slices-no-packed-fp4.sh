#!/usr/bin/env bash
# safetensors 0.8.0 with torch 2.13.0: slices of FP4 weights.
#
# torch packs two FP4 values into an element (float4_e2m1fn_x2), and safetensors writes such a tensor
# as dtype F4, whose shape counts values: [2, 8] for a tensor of shape (2, 4). One would expect
# get_slice to read parts of it, as it does of every other dtype: loaders read by slices, for tensor
# parallelism or to read nothing early (transformers 5.24 reads every tensor as get_slice(name)[...]).
#
# What happens: get_tensor gives the tensor back, bit by bit. A slice of it cannot be read, not even
# the whole one, nor whole rows: the bytes are taken for the elements of the shape in values. The
# same weights as uint8 are sliced, which is how checkpoints in MXFP4 and NVFP4 have them.
#
# Seen:
#   U8 [2, 4] of (2, 4): [...] (2, 4), [0:1] (1, 4), [:, :4] (2, 4)
#   F4 [2, 8] of (2, 4): [...] RuntimeError, [0:1] RuntimeError, [:, :4] RuntimeError
#   (shape '[2, 8]' is invalid for input of size 8)
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/slices.py" <<'PY'
import sys

import torch
from safetensors.torch import safe_open, save_file

packed = torch.arange(8, dtype=torch.uint8).reshape(2, 4)
fp4 = packed.clone().view(torch.float4_e2m1fn_x2)
save_file({"bytes": packed, "fp4": fp4}, sys.argv[1])
SLICES = {"[...]": ..., "[0:1]": slice(0, 1), "[:, :4]": (slice(None), slice(0, 4))}


def read(part, index):
    try:
        return str(tuple(part[index].shape))
    except RuntimeError as error:
        assert str(error) == "shape '[2, 8]' is invalid for input of size 8", error
        return "RuntimeError"


seen = {}
with safe_open(sys.argv[1], "pt") as file:
    for name in ("bytes", "fp4"):
        part, tensor = file.get_slice(name), file.get_tensor(name)
        assert torch.equal(tensor.view(torch.uint8), packed)
        seen[name] = [read(part, index) for index in SLICES.values()]
        parts = ", ".join(f"{text} {one}" for text, one in zip(SLICES, seen[name]))
        print(f"{part.get_dtype()} {part.get_shape()} of {tuple(tensor.shape)}: {parts}")
assert seen["bytes"] == ["(2, 4)", "(1, 4)", "(2, 4)"]
assert seen["fp4"] == ["RuntimeError"] * 3
PY
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  torch==2.13.0 numpy==2.4.6 safetensors==0.8.0
"$folder/venv/bin/python" "$folder/slices.py" "$folder/weights.safetensors"
