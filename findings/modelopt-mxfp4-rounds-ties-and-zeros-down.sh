#!/usr/bin/env bash
# nvidia-modelopt 0.47.0: MXFP4 weights that it writes.
#
# Between two FP4 values, a weight is rounded to the nearer one, and one right in the middle to that
# whose last bit is 0, by the default of IEEE 754; 0.0 is 0.0. One would expect one library to round
# so for both of its FP4 formats, MXFP4 and NVFP4: its CUDA code for fake quantization, by which the
# accuracy of a format is judged, does.
#
# What happens: NVFP4 does. MXFP4 rounds all ties towards zero, and writes 0.0 as -0.0 (code 8), so
# zeros, as of pruned or padded weights, are bytes 0x88 and not 0x00. A BF16 weight is in the middle
# often, for MXFP4's scales are powers of two: of normally distributed ones about every 200th is
# written as another value than by rounding to even, always one nearer to zero.
#
# Seen:
#   weights:   0.75   1.75    3.5  -0.75  -1.75   -3.5    0.0    0.0
#   NVFP4:      1.0    2.0    4.0   -1.0   -2.0   -4.0    0.0    0.0  (zeros are byte 0x00)
#   MXFP4:      0.5    1.5    3.0   -0.5   -1.5   -3.0   -0.0   -0.0  (zeros are byte 0x88)
#   MXFP4 of 4194304 BF16 weights: 0.48 % are nearer to zero than by ties to even, 0 are farther
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/ties.py" <<'PY'
import contextlib
import copy
import sys
from pathlib import Path

import modelopt
import modelopt.torch.quantization as mtq
import torch

TIES = [0.75, 1.75, 3.5, -0.75, -1.75, -3.5, 0.0, 0.0]
ROW = [*TIES, 6.0, *[0.0] * 7] * 2  # with the largest FP4 value, scales are exactly 1
MIDDLES = {0.75: 1.0, 1.75: 2.0, 3.5: 4.0}  # where the even value is not the smaller one


def compressed(weight, preset):
    """The bytes of a weight, and the values that the library reads from them."""
    linear = torch.nn.Sequential(torch.nn.Linear(*reversed(weight.shape), bias=False))
    linear[0].weight = torch.nn.Parameter(weight)
    with contextlib.redirect_stdout(sys.stderr):
        quantized = mtq.quantize(linear, copy.deepcopy(preset), forward_loop=None)
        mtq.compress(quantized)
    weight = quantized[0].weight
    return weight.data.view(torch.uint8), quantized[0].weight_quantizer(weight).float()


def line(what, values):
    return what + "".join(f"{value:7}" for value in values)


print(line("weights:", TIES))
seen = {}
for name, preset in (("NVFP4", mtq.NVFP4_DEFAULT_CFG), ("MXFP4", mtq.MXFP4_DEFAULT_CFG)):
    data, values = compressed(torch.tensor([ROW]), preset)
    seen[name] = str(values[0, : len(TIES)].tolist()), f"0x{data[0, 3]:02x}"
    print(line(f"{name}:  ", values[0, : len(TIES)].tolist()), f" (zeros are byte {seen[name][1]})")
assert seen["NVFP4"] == ("[1.0, 2.0, 4.0, -1.0, -2.0, -4.0, 0.0, 0.0]", "0x00")
assert seen["MXFP4"] == ("[0.5, 1.5, 3.0, -0.5, -1.5, -3.0, -0.0, -0.0]", "0x88")

torch.manual_seed(0)
weight = (torch.randn(4096, 1024) * 0.02).bfloat16()
blocks = weight.float().reshape(-1, 32)
scale = 2 ** (blocks.abs().amax(1, keepdim=True) / 6).log2().ceil()
values = compressed(weight, mtq.MXFP4_DEFAULT_CFG)[1].reshape(-1, 32).abs() / scale
even = values.clone()
for middle, value in MIDDLES.items():
    even[(blocks / scale).abs() == middle] = value
nearer, farther = (values < even).sum().item(), (values > even).sum().item()
share = f"{nearer / values.numel():.2%}".replace("%", " %")
print(
    f"MXFP4 of {values.numel()} BF16 weights: {share} are nearer to zero than by ties to even, "
    f"{farther} are farther"
)
assert (share, farther) == ("0.48 %", 0)

kernels = Path(modelopt.__file__).parent / "torch/kernels/quantization/gemm"
assert "value = round_to_even(x, values, bounds, n);" in (kernels / "tensor_quant_mx.h").read_text()
PY
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  torch==2.13.0 numpy==2.4.6 nvidia-modelopt==0.47.0 huggingface-hub==2.4.0 requests==2.34.2
"$folder/venv/bin/python" "$folder/ties.py" 2> "$folder/errors" || { cat "$folder/errors"; exit 1; }
