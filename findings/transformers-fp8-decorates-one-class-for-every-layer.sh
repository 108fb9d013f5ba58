#!/usr/bin/env bash
# transformers 5.17.0 and 5.24.0: `use_experts_implementation` and FP8 experts.
#
# The decorator changes the class of experts that it is given, so that its forward looks a function
# up by name. A model's own class is decorated once, where it is defined. One would expect the same
# of FP8Experts, the one class that FP8 models have instead.
#
# What happens: `replace_with_fp8_linear` decorates FP8Experts again for every layer that it
# replaces, of every model in the process, and each decoration puts another function around the
# forward of all that are there. Eager experts of a model with 58 MoE layers run below 58 of them,
# loaded twice below 116; and what `forward.__wrapped__` gives is not the class's own forward, as it
# is for every other class, but the last decoration but one, which looks the same name up again.
#
# Seen, for both versions:
#   no model: 0 functions around FP8Experts.forward
#   a model with 4 layers: 4 functions around FP8Experts.forward
#   another one: 8 functions around FP8Experts.forward
#   Qwen3MoeExperts has 1
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/decorations.py" <<'PY'
import torch
import transformers
from transformers.integrations.finegrained_fp8 import FP8Experts, replace_with_fp8_linear
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts


def around(function):
    count = 0
    while hasattr(function, "__wrapped__"):
        count, function = count + 1, function.__wrapped__
    return count


def load(layers):
    config = transformers.Qwen3MoeConfig(
        vocab_size=32,
        hidden_size=128,
        moe_intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=128,
        num_experts=2,
        num_experts_per_tok=1,
    )
    with torch.device("meta"):
        model = transformers.Qwen3MoeForCausalLM(config)
    replace_with_fp8_linear(model, quantization_config=transformers.FineGrainedFP8Config())


print(transformers.__version__)
for what, expected in (("no model", 0), ("a model with 4 layers", 4), ("another one", 8)):
    if expected:
        load(4)
    found = around(FP8Experts.forward)
    print(f"{what}: {found} functions around FP8Experts.forward")
    assert found == expected
print(f"Qwen3MoeExperts has {around(Qwen3MoeExperts.forward)}")
assert around(Qwen3MoeExperts.forward) == 1
PY
for version in 5.17.0 5.24.0; do
  python3 -m venv "$folder/$version"
  "$folder/$version/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 "transformers==$version"
  "$folder/$version/bin/python" "$folder/decorations.py" 2> "$folder/errors" || { cat "$folder/errors"; exit 1; }
done
