"""Generates with a tiny Qwen3-MoE on this CPU: ``python -m tests.vllm.engine FOLDER DTYPE``.

FOLDER has the model that :func:`write_model` writes. Prints one JSON object: the tokens, and the
seconds that building the engine took.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "hidden_size": 128,
    "intermediate_size": 256,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "vocab_size": 512,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
    "attention_bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def write_model(folder: Path, *, experts: float = 1.0) -> None:
    """Write a model with random weights, those of its experts times ``experts``."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    draw = torch.Generator().manual_seed(0)

    def weight(*shape: int, scale: float = 1.0) -> torch.Tensor:
        values = torch.randn(*shape, generator=draw) * scale / shape[-1] ** 0.5
        return values.to(torch.bfloat16)

    hidden, head, sizes = CONFIG["hidden_size"], CONFIG["head_dim"], CONFIG["moe_intermediate_size"]
    queries, keys = CONFIG["num_attention_heads"] * head, CONFIG["num_key_value_heads"] * head
    ones = torch.ones(hidden, dtype=torch.bfloat16)
    tensors = {
        "model.embed_tokens.weight": weight(CONFIG["vocab_size"], hidden, scale=hidden**0.5),
        "lm_head.weight": weight(CONFIG["vocab_size"], hidden, scale=8.0),
        "model.norm.weight": ones,
    }
    for i in range(CONFIG["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        tensors |= {
            f"{layer}.input_layernorm.weight": ones,
            f"{layer}.post_attention_layernorm.weight": ones,
            f"{layer}.self_attn.q_proj.weight": weight(queries, hidden),
            f"{layer}.self_attn.k_proj.weight": weight(keys, hidden),
            f"{layer}.self_attn.v_proj.weight": weight(keys, hidden),
            f"{layer}.self_attn.o_proj.weight": weight(hidden, queries),
            f"{layer}.self_attn.q_norm.weight": ones[:head],
            f"{layer}.self_attn.k_norm.weight": ones[:head],
            f"{layer}.mlp.gate.weight": weight(CONFIG["num_experts"], hidden, scale=4.0),
        }
        for expert in range(CONFIG["num_experts"]):
            mlp = f"{layer}.mlp.experts.{expert}"
            tensors |= {
                f"{mlp}.gate_proj.weight": weight(sizes, hidden, scale=4.0) * experts,
                f"{mlp}.up_proj.weight": weight(sizes, hidden, scale=4.0) * experts,
                f"{mlp}.down_proj.weight": weight(hidden, sizes, scale=4.0) * experts,
            }
    tensors = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def main() -> None:
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    from vllm import LLM, SamplingParams

    start = time.perf_counter()
    llm = LLM(
        sys.argv[1],
        skip_tokenizer_init=True,
        enforce_eager=True,
        max_model_len=256,
        dtype=sys.argv[2],
    )
    built = time.perf_counter() - start
    prompts = [[(7 * i * i + 3 * n) % 509 + 3 for i in range(n)] for n in (5, 17, 40)]
    outputs = llm.generate(
        [{"prompt_token_ids": prompt} for prompt in prompts],
        SamplingParams(temperature=0, max_tokens=16, detokenize=False, ignore_eos=True),
        use_tqdm=False,
    )
    tokens = [list(output.outputs[0].token_ids) for output in outputs]
    print(json.dumps({"tokens": tokens, "built": built}))


if __name__ == "__main__":
    main()
