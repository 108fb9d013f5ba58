"""A package tree that looks like vLLM where oracles call it: signatures of 0.33, no insides.

Each function records what it was called with and returns one new tensor per name that the real
one's result has.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path

from moe_rules.oracles import backends

PACKAGE = "vllm/model_executor/layers/fused_moe"
KERNEL = "moe_config, experts_cls, {}_backend, routing_tables=None"

SIGNATURES = {
    "config": {
        "biased_moe_quant_config": "w1_bias, w2_bias, gemm1_alpha=None, gemm1_beta=None,"
        " gemm1_clamp_limit=None",
    },
    "oracle.unquantized": {
        "convert_to_unquantized_kernel_format": "unquantized_backend, moe_config, w13_weight,"
        " w2_weight, layer=None",
        "make_unquantized_moe_kernel": "quant_config, moe_config, backend, experts_cls,"
        " routing_tables=None",
    },
    "oracle.fp8": {
        "convert_to_fp8_moe_kernel_format": "fp8_backend, layer, w13, w2, w13_scale, w2_scale,"
        " w13_input_scale, w2_input_scale",
        "make_fp8_moe_quant_config": "fp8_backend, w1_scale, w2_scale, a1_scale, a2_scale,"
        " w1_bias=None, w2_bias=None, block_shape=None, per_act_token_quant=False,"
        " per_out_ch_quant=False, swiglu_limit=None, gemm1_alpha=None, gemm1_beta=None,"
        " layer=None",
        "make_fp8_moe_kernel": "moe_quant_config, moe_config, experts_cls, fp8_backend,"
        " routing_tables=None",
    },
    "oracle.int8": {
        "convert_to_int8_moe_kernel_format": "int8_backend, w13, w2, layer=None, w13_scale=None",
        "make_int8_moe_quant_config": "int8_backend, w1_scale, w2_scale, a1_scale=None,"
        " a2_scale=None, w1_bias=None, w2_bias=None, per_act_token_quant=False, layer=None",
        "make_int8_moe_kernel": "int8_backend, moe_quant_config, moe_config, experts_cls,"
        " routing_tables=None",
    },
    "oracle.int_wna16": {
        "convert_to_wna16_moe_kernel_format": "backend, layer, quant_config, input_dtype, w13, w2,"
        " w13_scale, w2_scale, w13_qzeros=None, w2_qzeros=None, w13_bias=None, w2_bias=None",
        "make_wna16_moe_quant_config": "w1_scale, w2_scale, group_size, num_bits, w1_zp=None,"
        " w2_zp=None, w1_bias=None, w2_bias=None, a1_gscale=None, a2_gscale=None,"
        " gemm1_clamp_limit=None, gemm1_alpha=None, gemm1_beta=None",
        "make_wna16_moe_kernel": "moe_quant_config, moe_config, experts_cls,"
        " backend=WNA16MoEBackend.MARLIN, routing_tables=None",
    },
    "oracle.mxfp4": {
        "convert_gpt_oss_weight_to_mxfp4_moe_kernel_format": "mxfp4_backend, layer, w13_weight,"
        " w2_weight, w13_weight_scale, w2_weight_scale, w13_bias=None, w2_bias=None,"
        " w13_input_scale=None, w2_input_scale=None, _cache_permute_indices=None",
        "convert_weight_to_mxfp4_moe_kernel_format": "mxfp4_backend, layer, w13_weight,"
        " w2_weight, w13_weight_scale, w2_weight_scale, w13_bias=None, w2_bias=None,"
        " _cache_permute_indices=None, activation=None, use_separated_a4w4=False,"
        " activation_key=None",
        "make_mxfp4_moe_quant_config": "mxfp4_backend, w1_scale, w2_scale, gemm1_alpha=None,"
        " gemm1_beta=None, swiglu_limit=None, w1_bias=None, w2_bias=None, a1_scale=None,"
        " a2_scale=None, layer=None",
        "make_mxfp4_moe_kernel": "moe_quant_config, moe_config, experts_cls, mxfp4_backend,"
        " routing_tables=None",
    },
    "oracle.nvfp4": {
        "convert_to_nvfp4_moe_kernel_format": "nvfp4_backend, layer, w13, w13_scale, w13_scale_2,"
        " a13_scale, w2, w2_scale, w2_scale_2, a2_scale, is_act_and_mul, use_a16=False,"
        " trtllm_hidden_alignment=256",
        "make_nvfp4_moe_quant_config": "backend, w13_scale, w2_scale, w13_scale_2, w2_scale_2,"
        " a13_scale, a2_scale, swiglu_limit=None, swiglu_alpha=None, swiglu_beta=None,"
        " layer=None, use_a16=False",
        "make_nvfp4_moe_kernel": "moe_quant_config, moe_config, experts_cls, backend,"
        " routing_tables=None, per_token_activation=False",
    },
    "oracle.w4a8": {
        "convert_to_w4a8_moe_kernel_format": "backend, layer, group_size, w13_weight, w2_weight,"
        " w13_weight_scale, w2_weight_scale",
        "make_w4a8_moe_quant_config": "backend, w1_scale, w2_scale, g1_alphas, g2_alphas,"
        " layer=None",
        "make_w4a8_moe_kernel": "backend, moe_quant_config, moe_config, experts_cls, b_strides1,"
        " b_strides2, group_size, routing_tables=None",
    },
    "oracle.w4a8_int8": {
        "convert_to_w4a8_int8_moe_format": "w13_weight, w2_weight, w13_weight_scale,"
        " w2_weight_scale, group_size, w13_bias=None, w2_bias=None",
        "make_w4a8_int8_moe_quant_config": "block_shape=None",
        "make_w4a8_int8_moe_kernel": "moe_quant_config, moe_config, experts_cls,"
        " routing_tables=None",
    },
}
RESULTS = {
    "unquantized": 2,
    "fp8": 4,
    "int8": 2,
    "int_wna16": 10,
    "mxfp4": 6,
    "nvfp4": 8,
    "w4a8": 8,
    "w4a8_int8": 6,
}
"""How many values a conversion returns, by module."""
EXPERTS = {
    "experts.marlin_moe": ["MarlinExperts", "BatchedMarlinExperts"],
    "experts.flashinfer_cutlass_moe": ["FlashInferExperts"],
    "experts.fused_humming_moe": [
        "HummingIndexedExperts",
        "HummingGroupedExperts",
        "BatchedHummingGroupedExperts",
    ],
    "experts.cutlass_moe": ["CutlassExpertsW4A8Fp8"],
    "experts.cpu_int4_moe": ["CPUExpertsInt4"],
}


def _module(name: str) -> str:
    """The source of one oracle's module."""
    lines = ["from enum import Enum", "import torch", "CALLS = {}"]
    for enum in vars(backends).values():
        if isinstance(enum, type(Enum)) and enum.__module__ == backends.__name__:
            members = {member.name: member.value for member in enum}
            lines.append(f"{enum.__name__} = Enum({enum.__name__!r}, {members!r})")
    results = RESULTS.get(name.rpartition(".")[2], 0)
    for function, signature in SIGNATURES[name].items():
        result = f"({'torch.empty(0), ' * results})" if "convert" in function else "object()"
        lines += [
            f"def {function}({signature}):",
            f"    CALLS[{function!r}] = dict(locals())",
            f"    result = {result}",
            f"    CALLS[{function!r}]['returned'] = result",
            "    return result",
        ]
    return "\n".join(lines)


def write(root: Path) -> None:
    """Write the tree, and a package ``flashinfer``, below ``root``."""
    sources = {name: _module(name) for name in SIGNATURES}
    for name, classes in EXPERTS.items():
        sources[name] = "\n".join(f"class {cls}: pass" for cls in classes)
    keys = "vllm/model_executor/layers/quantization/utils/quant_utils.py"
    files = {f"{PACKAGE}/{name.replace('.', '/')}.py": text for name, text in sources.items()}
    files |= {keys: "kFp8DynamicTokenSym = 'kFp8DynamicTokenSym'", "flashinfer/__init__.py": ""}
    for file, text in files.items():
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
