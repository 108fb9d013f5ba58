#!/usr/bin/env bash
# transformers 5.24.0 with compressed-tensors 0.17.0: packed INT4 experts, loaded with dequantize=False.
#
# CompressedTensorsConfig says of dequantize=False, the default: "the weights are left in their
# compressed form and compressed-tensors decompresses them on the first forward pass". One would
# expect so of every weight that the checkpoint has packed, and after loading about as many bytes
# as the checkpoint has.
#
# What happens: linear modules (attention) stay packed, but experts, which are most of the weights of
# a model with experts, are in the model's dtype as soon as it is loaded, without a word. The bytes
# are four times those of the checkpoint before anything is computed, with dequantize=False as with
# dequantize=True.
#
# Seen:
#   checkpoint: 0.53 bytes for each of an expert's weights
#   dequantize=False: q_proj has weight_packed, weight_scale, weight_shape; experts have gate_up_proj in torch.bfloat16, 2.00 bytes for each weight
#   dequantize=True: q_proj has weight; experts have gate_up_proj in torch.bfloat16, 2.00 bytes for each weight
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/load.py" <<'PY'
import json
import sys
from pathlib import Path

import torch
import transformers
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from safetensors.torch import save_file

BITS, GROUP, EXPERTS = 4, 64, 4
folder = Path(sys.argv[1])
config = transformers.Qwen3MoeConfig(
    vocab_size=64,
    hidden_size=128,
    moe_intermediate_size=128,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=2,
    head_dim=64,
    num_experts=EXPERTS,
    num_experts_per_tok=2,
)
tensors, expert_bytes, expert_weights = {}, 0, 0


def put_packed(name, weight):
    groups = weight.float().unflatten(1, (-1, GROUP))
    scale = groups.abs().amax(-1) / 7
    codes = (groups / scale[..., None]).round().flatten(1).to(torch.int8)
    parts = {
        "weight_packed": pack_to_int32(codes, BITS),
        "weight_scale": scale.bfloat16(),
        "weight_shape": torch.tensor(weight.shape),
    }
    tensors.update({f"{name}.{part}": value for part, value in parts.items()})
    return sum(parts[part].nbytes for part in ("weight_packed", "weight_scale"))


torch.manual_seed(0)
model = transformers.Qwen3MoeForCausalLM(config).bfloat16()
for name, value in model.state_dict().items():
    if ".experts." in name:
        prefix, kind = name.rsplit(".", 1)
        names = ("gate_proj", "up_proj") if kind == "gate_up_proj" else (kind,)
        for expert in range(EXPERTS):
            for part, weight in zip(names, value[expert].chunk(len(names))):
                expert_bytes += put_packed(f"{prefix}.{expert}.{part}", weight)
                expert_weights += weight.numel()
    elif "self_attn" in name and "proj" in name:
        put_packed(name.removesuffix(".weight"), value)
    else:
        tensors[name] = value.clone()
save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
weights = {"num_bits": BITS, "type": "int", "symmetric": True, "strategy": "group", "group_size": GROUP}
quantization = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head", "re:.*mlp.gate$"],
    "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
}
described = {**config.to_dict(), "architectures": ["Qwen3MoeForCausalLM"], "dtype": "bfloat16"}
(folder / "config.json").write_text(json.dumps({**described, "quantization_config": quantization}))

print(f"checkpoint: {expert_bytes / expert_weights:.2f} bytes for each of an expert's weights")
for dequantize in (False, True):
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=transformers.CompressedTensorsConfig(dequantize=dequantize)
    )
    layer = loaded.model.layers[0]
    experts = layer.mlp.experts
    per_weight = (experts.gate_up_proj.nbytes + experts.down_proj.nbytes) / expert_weights
    attention = sorted(name for name, _ in layer.self_attn.q_proj.named_parameters())
    print(
        f"dequantize={dequantize}: q_proj has {', '.join(attention)}; experts have gate_up_proj in "
        f"{experts.gate_up_proj.dtype}, {per_weight:.2f} bytes for each weight"
    )
    assert ("weight_packed" in attention) is not dequantize
    assert experts.gate_up_proj.dtype == torch.bfloat16 and per_weight == 2
PY
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  torch==2.13.0 numpy==2.4.6 transformers==5.24.0 compressed-tensors==0.17.0 psutil==7.2.2
mkdir "$folder/model"
"$folder/venv/bin/python" "$folder/load.py" "$folder/model" 2> "$folder/errors" || { cat "$folder/errors"; exit 1; }
