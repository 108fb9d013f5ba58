"""Which functions of vLLM 0.33 convert, describe and build, and what they call things.

The knowledge of :mod:`moe_rules.oracles.provider`: one entry per oracle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from moe_rules.vocabulary.quant_keys import CHANNEL

PACKAGE = "vllm.model_executor.layers.fused_moe"

EVERY = None
"""Stands for every backend of an oracle."""


@dataclass(frozen=True)
class Functions:
    """vLLM's functions for one oracle, as module:function below :data:`PACKAGE`.

    ``converted`` names what ``convert`` returns. ``convert_of`` are the conversions by
    quantization method, where they differ. ``processed`` are the backends whose experts vLLM's
    quantization methods let process the layer once the kernel is built. ``channel_block`` is the
    block shape of scales by channel, where vLLM passes one.
    """

    convert: str
    converted: tuple[str, ...]
    make_quant_config: str
    make_kernel: str
    convert_of: Mapping[str, str] | None = None
    processed: tuple[str, ...] | None = ()
    channel_block: tuple[int, int] | None = None


_WEIGHTS = ("w13", "w2")
_SCALED = (*_WEIGHTS, "w13_scale", "w2_scale")
_BIASED = ("w13_bias", "w2_bias")

_FP8 = Functions(
    "oracle.fp8:convert_to_fp8_moe_kernel_format",
    _SCALED,
    "oracle.fp8:make_fp8_moe_quant_config",
    "oracle.fp8:make_fp8_moe_kernel",
)
_MXFP4 = Functions(
    "oracle.mxfp4:convert_weight_to_mxfp4_moe_kernel_format",
    (*_SCALED, *_BIASED),
    "oracle.mxfp4:make_mxfp4_moe_quant_config",
    "oracle.mxfp4:make_mxfp4_moe_kernel",
    processed=EVERY,
)
_GPT_OSS = "oracle.mxfp4:convert_gpt_oss_weight_to_mxfp4_moe_kernel_format"
FUNCTIONS = {
    "unquantized": Functions(
        "oracle.unquantized:convert_to_unquantized_kernel_format",
        _WEIGHTS,
        "config:biased_moe_quant_config",
        "oracle.unquantized:make_unquantized_moe_kernel",
        processed=EVERY,
    ),
    "fp8": _FP8,
    "mxfp8": _FP8,
    "int8": Functions(
        "oracle.int8:convert_to_int8_moe_kernel_format",
        _WEIGHTS,
        "oracle.int8:make_int8_moe_quant_config",
        "oracle.int8:make_int8_moe_kernel",
        processed=EVERY,
    ),
    "int_wna16": Functions(
        "oracle.int_wna16:convert_to_wna16_moe_kernel_format",
        (*_SCALED, "w13_zp", "w2_zp", "a13_scale", "a2_scale", *_BIASED),
        "oracle.int_wna16:make_wna16_moe_quant_config",
        "oracle.int_wna16:make_wna16_moe_kernel",
        processed=("ZEN_CPU",),
    ),
    "mxfp4": replace(
        _MXFP4,
        convert_of={
            "gpt_oss_mxfp4": _GPT_OSS,
            "quark": _GPT_OSS,
            **dict.fromkeys(("mxfp4", "compressed-tensors", "inc"), _MXFP4.convert),
        },
    ),
    "mxfp4_deepseek_v4": _MXFP4,
    "nvfp4": Functions(
        "oracle.nvfp4:convert_to_nvfp4_moe_kernel_format",
        (
            *("w13", "w13_scale", "w13_scale_2", "a13_scale"),
            *("w2", "w2_scale", "w2_scale_2", "a2_scale"),
        ),
        "oracle.nvfp4:make_nvfp4_moe_quant_config",
        "oracle.nvfp4:make_nvfp4_moe_kernel",
        processed=EVERY,
    ),
    "w4a8": Functions(
        "oracle.w4a8:convert_to_w4a8_moe_kernel_format",
        (*_SCALED, "w13_scale_2", "w2_scale_2", "b_strides1", "b_strides2"),
        "oracle.w4a8:make_w4a8_moe_quant_config",
        "oracle.w4a8:make_w4a8_moe_kernel",
    ),
    "w4a8_int8": Functions(
        "oracle.w4a8_int8:convert_to_w4a8_int8_moe_format",
        (*_SCALED, *_BIASED),
        "oracle.w4a8_int8:make_w4a8_int8_moe_quant_config",
        "oracle.w4a8_int8:make_w4a8_int8_moe_kernel",
        channel_block=CHANNEL,
    ),
}

OUR_NAMES = {
    "unquantized_backend": "backend",
    "fp8_backend": "backend",
    "int8_backend": "backend",
    "mxfp4_backend": "backend",
    "nvfp4_backend": "backend",
    "moe_quant_config": "quant_config",
    "w13_weight": "w13",
    "w2_weight": "w2",
    "w1_scale": "w13_scale",
    "w13_weight_scale": "w13_scale",
    "w2_weight_scale": "w2_scale",
    "a1_scale": "a13_scale",
    "a1_gscale": "a13_scale",
    "a2_gscale": "a2_scale",
    "w13_input_scale": "a13_scale",
    "w2_input_scale": "a2_scale",
    "a13_scale": "a13_scale_2",  # of NVFP4, whose first scales are never static
    "a2_scale": "a2_scale_2",
    "w1_zp": "w13_zp",
    "w13_qzeros": "w13_zp",
    "w2_qzeros": "w2_zp",
    "w1_bias": "w13_bias",
    "g1_alphas": "w13_scale_2",
    "g2_alphas": "w2_scale_2",
    "gemm1_alpha": "swiglu_alpha",
    "gemm1_beta": "swiglu_beta",
    "gemm1_clamp_limit": "swiglu_limit",
}
"""What vLLM's functions call something, and what it is called here; equal names are left out."""


IN_LAYER = {
    "w13": "w13_weight",
    "w2": "w2_weight",
    "w13_scale": "w13_weight_scale",
    "w2_scale": "w2_weight_scale",
    "w13_scale_2": "w13_weight_scale_2",
    "w2_scale_2": "w2_weight_scale_2",
    "a13_scale": "w13_input_scale",
    "a2_scale": "w2_input_scale",
    "w13_bias": "w13_bias",
    "w2_bias": "w2_bias",
}
"""What a conversion returns, and the parameter of vLLM's layer that becomes it."""

SHARED = {"g1_alphas": "w13_weight_scale_2", "g2_alphas": "w2_weight_scale_2"}
"""Of a quantization config, what experts change in place through the layer's parameter."""
