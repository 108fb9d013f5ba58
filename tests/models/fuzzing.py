"""Configurations of every kind that the tables know, and junk to spoil them with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from hypothesis import strategies as st

from moe_rules.models import load_tables
from moe_rules.models.architectures import KINDS
from moe_rules.models.expert_substitution import ROUTER
from tests.models.checkpoints import (
    EXAMPLES,
    FP8_BLOCKS,
    FP8_TOKENS,
    FP8_WEIGHTS,
    GPTQ,
    QUARK,
    compressed,
    qwen3,
)

Path = tuple[str | int, ...]

# Architectures ------------------------------------------------------------------------------------

LAYERS = 4
PLAUSIBLE: dict[str, Any] = {
    "num_experts": 8,
    "experts_per_token": 2,
    "hidden_dim": 256,
    "intermediate_size": 512,
    "activation": "silu",
    "router_logits_dtype": "fp32",
    "swiglu_limit": 7.0,
    "swiglu_alpha": 1.7,
    "swiglu_beta": 1.0,
    "activation_situ_beta": 1.0,
    "activation_situ_linear_beta": 1.0,
    "minimum_intermediate_size_per_partition": 64,
    "layers.first": 1,
    "layers.last": LAYERS - 1,
    "layers.every": 2,
    "layers.without": [0],
    "layers.offset": 0,
    "layers.listed": [1, 2, 3],
    "layers.dense": [0],
    "layers.count": LAYERS,
    "routing.scoring": "sigmoid",
    "routing.groups": 1,
    "routing.taken_groups": 1,
}
"""Values of configuration fields, by what a row takes from them; true for any other."""
CONTEXT = ("platform", "deployment", "layer", "model", "config", "text", "quantization")


def fields_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """A plausible value for every configuration field that a row names."""
    parts = {
        **{name: row[name] for name in row if name in KINDS},
        **{f"{part}.{name}": source for part in ("layers", "routing")
           for name, source in row[part].items()},
    }  # fmt: skip
    types = [*row["layers"]["type"], "moe"][0]
    plausible = {**PLAUSIBLE, "layers.types": [types] * LAYERS}
    found: dict[str, Any] = {}
    for refusal in row["refuse"]:
        for field in _names(refusal.get("value")):
            found[field] = next(filter(None, refusal["unless"]))
    for name, source in parts.items():
        for field in _names(source):
            found.setdefault(field, plausible.get(name, True))
    for name in row["reads"]:
        found.setdefault(name.removeprefix("config."), True)
    for field, expected in _avoided(row["refuse"]):
        found[field] = expected
    for field, expected in _tested({**row, "refuse": []}):
        found.setdefault(field, expected)
    return found


def _avoided(refusals: list[Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    """The configuration fields that refusals test, each with a value that is not refused."""
    for refusal in refusals:
        for field, expected in refusal["when"].items():
            if field == "model_type":
                continue
            operators = expected if isinstance(expected, Mapping) else {}
            allowed = operators.get("not", operators.get("below", 0 if operators else []))
            for name in _names(field):
                yield name, allowed[-1] if isinstance(allowed, list) and allowed else allowed


def _names(source: Any) -> Iterator[str]:
    """The configuration fields that a source may give."""
    if isinstance(source, str):
        if source.partition(".")[0] not in CONTEXT:
            yield source
    elif isinstance(source, list):
        for one in source:
            yield from _names(one)
    elif isinstance(source, Mapping):
        for key in ("field", "is", "if", "then", "else", "multiply", "index_below"):
            yield from _names(source.get(key))


def _tested(part: Any) -> Iterator[tuple[str, Any]]:
    """The configuration fields that conditions test, each with a value that they name."""
    if isinstance(part, list):
        for one in part:
            yield from _tested(one)
    elif isinstance(part, Mapping):
        for field, expected in (part.get("when") or {}).items():
            value = expected.get("not") if isinstance(expected, Mapping) else expected
            for name in _names(field):
                yield (
                    name,
                    next((v for v in value if v), None) if isinstance(value, list) else value,
                )
        for one in part.values():
            yield from _tested(one)


def fields_for(architecture: str) -> dict[str, Any]:
    """A small model of an architecture, with every field that its row names."""
    row = load_tables().architectures["architectures"][architecture]
    if row["language_model"] is not None:
        return {
            "model_type": "my_moe",
            "text_config": {
                "architectures": ["MixtralForCausalLM"],
                **fields_for("MixtralForCausalLM"),
            },
        }
    fields: dict[str, Any] = {"model_type": "my_moe", "num_attention_heads": 32}
    for path, value in fields_of(row).items():
        *outer, last = path.split(".")
        level = fields
        for part in outer:
            inner = level.setdefault(part, {})
            level = inner if isinstance(inner, dict) else {}
        if not last.isdigit():
            level[last] = value
    return fields


# Quantization -------------------------------------------------------------------------------------

INT4 = {"num_bits": 4, "type": "int", "group_size": 128, "symmetric": True, "actorder": None}
MXFP4 = {
    "dtype": "fp4",
    "qscheme": "per_group",
    "group_size": 32,
    "scale_format": "e8m0",
    "symmetric": None,
    "is_dynamic": False,
}
QUARK_MXFP4: dict[str, Any] = {
    **QUARK,
    "exclude": ["lm_head", "re:.*gate"],
    "global_quant_config": {"weight": MXFP4, "input_tensors": {**MXFP4, "is_dynamic": True}},
    "layer_quant_config": {"*layers.3*": {"weight": [MXFP4], "input_tensors": None}},
}
AUTO_ROUND: dict[str, Any] = {
    "quant_method": "auto-round",
    "bits": 4,
    "group_size": 128,
    "sym": True,
    "data_type": "int",
    "packing_format": "auto_round:auto_gptq",
    "block_name_to_quantize": ["model.layers"],
    "extra_config": {"model.layers.1.mlp.experts": {"bits": 4, "group_size": 64, "sym": True}},
}
MODELOPT: dict[str, Any] = {
    "quant_method": "modelopt",
    "quant_algo": "NVFP4",
    "config_groups": {"group_0": {"weights": {}, "input_activations": {"num_bits": 4}}},
    "ignore": ["lm_head", "model.layers.1*"],
}
MIXED: dict[str, Any] = {
    "quant_method": "modelopt",
    "quant_algo": "MIXED_PRECISION",
    "quantized_layers": {
        "model.layers.0.mlp.experts.0.up_proj": {"quant_algo": "NVFP4", "group_size": 16},
        "model.layers.1.mlp.experts": {"quant_algo": "FP8_PB_WO", "group_size": 128},
    },
    "exclude_modules": ["lm_head"],
}
BLOCKS: dict[str, dict[str, Any]] = {
    "fp8": {**FP8_BLOCKS, "modules_to_not_convert": ["model.layers.1.mlp.experts"]},
    "fp8-static": {"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": ["x"]},
    "deepseek_v4_fp8": {**FP8_BLOCKS, "quant_method": "deepseek_v4_fp8", "moe_quant_algo": "NVFP4"},
    "mxfp4": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]},
    "gpt_oss_mxfp4": {"quant_method": "gpt_oss_mxfp4"},
    "gptq": {**GPTQ, "dynamic": {"-:.*layers.0": {}, "+:.*layers.1": {"bits": 8, "sym": True}}},
    "gptq-8": {**GPTQ, "quant_method": "gptq_marlin", "bits": 8},
    "awq": {
        "quant_method": "awq",
        "bits": 4,
        "group_size": 64,
        "zero_point": True,
        "modules_to_not_convert": ["gate"],
    },
    "awq-w_bit": {"quant_method": "awq", "w_bit": 4, "q_group_size": 128, "zero_point": True},
    "auto-round": AUTO_ROUND,
    "auto-round-awq": {
        **AUTO_ROUND,
        "packing_format": "auto_round:auto_awq",
        "to_quant_block_names": "model.layers",
    },
    "auto-round-mx": {**AUTO_ROUND, "data_type": "mx_fp", "bits": 8, "group_size": 32,
                      "packing_format": "auto_round:llm_compressor", "act_bits": 8},
    "modelopt": MODELOPT,
    "modelopt-nested": {
        "producer": {"name": "modelopt"},
        "quantization": {"quant_algo": "FP8", "exclude_modules": ["model.layers.1*"]},
    },
    "modelopt_mixed": MIXED,
    "mxfp8": {"quant_method": "mxfp8", "ignored_layers": ["lm_head"]},
    "compressed-int4": compressed(
        INT4, None, "pack-quantized", ignore=["lm_head", r"re:.*mlp\.gate$"]
    ),
    "compressed-int3": compressed({**INT4, "num_bits": 3}, None, "pack-quantized"),
    "compressed-fp8": compressed(FP8_WEIGHTS, FP8_TOKENS, "float-quantized"),
    "compressed-w4a8": compressed(
        INT4, {**FP8_TOKENS, "type": "int", "num_bits": 8}, "int-quantized"
    ),
    "quark": QUARK_MXFP4,
    "quark-int4": {
        **QUARK_MXFP4,
        "global_quant_config": {
            "weight": {"dtype": "int4", "qscheme": "per_group", "group_size": 128,
                       "symmetric": True},
        },
    },
    "humming": {"quant_method": "humming", "ignore": ["lm_head"]},
    "torchao": {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8"}}},
    "experts_int8": {"quant_method": "experts_int8"},
}  # fmt: skip
"""A quantization block for every way in which a method's is read."""


def corpus() -> dict[str, dict[str, Any]]:
    """The examples, a model of every architecture, and one with each quantization."""
    found = {path.stem: json.loads(path.read_bytes()) for path in EXAMPLES.glob("*.json")}
    table = load_tables().architectures
    for name, row in table["architectures"].items():
        if all(refusal.get("when") for refusal in row["refuse"]):
            found[name] = {"architectures": [name], **fields_for(name)}
    for model_type, described in table["config_classes"].items():
        fields: Any = {"num_attention_heads": 32, **qwen3()}
        for part in reversed(described["text"]["field"].split(".") if "text" in described else []):
            fields = {"architectures": fields["architectures"], part: fields}
        found[model_type] = {**fields, "model_type": model_type}
    substitution = {
        "version": 1,
        "router_semantics": ROUTER,
        "targets": {
            "model.layers.1.mlp.experts": {
                "weight_layout": "compact_retained_experts",
                "replacements": {"7": {"format": "constant-v1"}},
            },
        },
    }
    declared = {"transform_config": {"expert_substitution": substitution}, "config_groups": {}}
    found["replaced experts"] = qwen3(approximate_experts={"0": [1, 5], "2": [], "3": None})
    found["declared replacements"] = qwen3(
        compression_config={"quant_method": "compressed-tensors", **declared}
    )
    found |= {name: qwen3(block) for name, block in BLOCKS.items()}
    return found


# Junk ---------------------------------------------------------------------------------------------

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.sampled_from([2**31, 2**63, -(2**63), 10**30, -(10**30), 10**18, -(10**18)]),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(["fp8", "re:(", "*", "-:", "0", "silu", "none", "\ud800"]),
)
DEEP: Any = 0
for _ in range(300):
    DEEP = [DEEP]
JUNK = st.one_of(
    SCALARS,
    st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=5,
    ),
    st.just(DEEP),
)


def paths_of(value: object, path: Path = ()) -> Iterator[Path]:
    """Where something stands in a configuration, of lists the first two entries."""
    if path:
        yield path
    if isinstance(value, dict):
        inner: list[tuple[str | int, Any]] = list(value.items())
    else:
        inner = list(enumerate(value[:2])) if isinstance(value, list) else []
    for key, part in inner:
        yield from paths_of(part, (*path, key))


def spoilt(configuration: dict[str, Any], path: Path, junk: Any) -> dict[str, Any]:
    """The configuration with something else in one place."""
    copy: Any = json.loads(json.dumps(configuration))
    target = copy
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = junk
    return dict(copy)
