#!/usr/bin/env bash
# nvidia-modelopt 0.47.0: how config.json describes INT4 weights with FP8 activations (W4A8_AWQ) in
# a model of mixed precision.
#
# For models of mixed precision, convert_hf_quant_config_format writes a group for each algorithm, as
# llm-compressor's configurations have them: bits, kind of number, size of groups. One would expect
# W4A16_AWQ and W4A8_AWQ, whose weights are INT4, packed by one function, to be described alike.
#
# What happens: those of W4A8_AWQ are called floats of 4 bits, which is what NVFP4's are called. Who
# goes by the groups, as compressed-tensors does, takes code 7 for 6.0 and code 9 for -0.5, where it
# is -7; only quant_algo, outside of the format that the groups are of, says otherwise.
#
# Seen:
#   W4A16_AWQ: weights are said to be 4 bits, int; read as int they are 8% off, as float 69%
#   W4A8_AWQ: weights are said to be 4 bits, float; read as int they are 8% off, as float 69%
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/groups.py" <<'PY'
import contextlib
import copy
import sys

import modelopt.torch.quantization as mtq
import torch
from modelopt.torch.export import quant_utils
from modelopt.torch.export.convert_hf_config import convert_hf_quant_config_format

FP4 = torch.tensor([0.0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
INT4 = torch.tensor([0.0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1])
PRESETS = {"W4A16": mtq.INT4_AWQ_CFG, "W4A8": mtq.W4A8_AWQ_BETA_CFG}

torch.manual_seed(0)
rows = torch.randn(4, 256)
model = torch.nn.ModuleDict({name: torch.nn.Linear(256, 64, bias=False) for name in PRESETS})
with contextlib.redirect_stdout(sys.stderr):
    for name, preset in PRESETS.items():
        mtq.quantize(model[name], copy.deepcopy(preset), lambda linear: linear(rows))
    config = convert_hf_quant_config_format(quant_utils.get_quant_config(model))


def off(linear, kinds):
    """How far the weight that is written is from the module's, its codes being of these values."""
    scale = quant_utils.get_weight_scaling_factor(linear)
    data = quant_utils.to_quantized_weight(
        linear.weight,
        scale,
        quant_utils.get_quantization_format(linear),
        block_size=quant_utils.get_weight_block_size(linear),
    )
    values = kinds[torch.stack([data & 15, data >> 4], 1).flatten(0, 1).long()]
    written = values * scale.repeat_interleave(values.shape[1] // scale.shape[1], 1)
    return ((written - linear.weight).norm() / linear.weight.norm()).item()


seen = []
for group in config["config_groups"].values():
    (name,) = group["targets"]
    said = group["weights"]
    algorithm = config["quantized_layers"][name]["quant_algo"]
    seen.append(
        f"{algorithm}: weights are said to be {said['num_bits']} bits, {said['type']}; read as int "
        f"they are {off(model[name], INT4):.0%} off, as float {off(model[name], FP4):.0%}"
    )
print(*seen, sep="\n")
assert seen == [
    "W4A16_AWQ: weights are said to be 4 bits, int; read as int they are 8% off, as float 69%",
    "W4A8_AWQ: weights are said to be 4 bits, float; read as int they are 8% off, as float 69%",
]
PY
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  torch==2.13.0 numpy==2.4.6 nvidia-modelopt==0.47.0 huggingface-hub==2.4.0 requests==2.34.2
"$folder/venv/bin/python" "$folder/groups.py" 2> "$folder/errors" || { cat "$folder/errors"; exit 1; }
