"""A tiny model of transformers with random weights generates, its experts on kernels from here.

    python examples/transformers_generate.py [MODEL]

MODEL: a name or folder that AutoModelForCausalLM loads, instead of the tiny one. The log says what
the tables select and why. Needs the extra ``transformers``.
"""

from __future__ import annotations

import sys

import torch
import transformers

import moe_rules.integrations.transformers  # noqa: F401  # registers the name

PROMPT = (3, 14, 15, 92, 65, 35)
NEW_TOKENS = 16


def tiny_model() -> transformers.PreTrainedModel:
    """Two layers of eight experts, in Qwen3-MoE's architecture."""
    torch.manual_seed(0)
    config = transformers.Qwen3MoeConfig(
        vocab_size=128,
        hidden_size=64,
        moe_intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_experts=8,
        num_experts_per_tok=2,
    )
    return transformers.Qwen3MoeForCausalLM(config)


def generate(model: transformers.PreTrainedModel, implementation: str) -> list[int]:
    """The tokens that follow PROMPT, by greedy search."""
    model.set_experts_implementation(implementation)
    prompt = torch.tensor([PROMPT], device=model.device)
    tokens = model.generate(prompt, max_new_tokens=NEW_TOKENS, do_sample=False)
    return tokens[0, len(PROMPT) :].tolist()


def main(arguments: list[str]) -> int:
    """Generate on kernels from here and with transformers' eager code; 0 if the tokens agree."""
    transformers.logging.set_verbosity_info()
    if arguments:
        model = transformers.AutoModelForCausalLM.from_pretrained(arguments[0])
    else:
        model = tiny_model()
    here = generate(model.eval(), "moe_rules")
    eager = generate(model, "eager")
    print(f"moe_rules: {here}\neager:     {eager}")
    return int(here != eager)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
