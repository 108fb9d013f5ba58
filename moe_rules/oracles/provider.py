"""vLLM's own conversions, for backends whose kernels are vLLM's.

A table names the functions of vLLM 0.33 that convert an oracle's weights, describe their
quantization and build the kernel. Their arguments are bound by name: what vLLM calls otherwise
than this package is in one list of synonyms. vLLM is imported when a function is called.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from moe_rules.oracles.vllm_objects import is_member, vllm_member, vllm_quant_key
from moe_rules.vocabulary.fact_values import did_you_mean
from moe_rules.vocabulary.layer import FusedMoEConfig
from moe_rules.vocabulary.quant_keys import CHANNEL, TOKEN, QuantKey

if TYPE_CHECKING:
    from moe_kernels.layouts import LayerWeights

PACKAGE = "vllm.model_executor.layers.fused_moe"


@dataclass(frozen=True)
class Functions:
    """vLLM's functions for one oracle, as module:function below :data:`PACKAGE`.

    ``converted`` names what ``convert`` returns, ``backends`` is the module with the Enum.
    ``convert_of`` are other conversions by activation, where rows of w13 are in another order.
    """

    backends: str
    convert: str
    converted: tuple[str, ...]
    make_quant_config: str
    make_kernel: str
    convert_of: Mapping[str, str] | None = None


_WEIGHTS = ("w13", "w2")
_SCALED = (*_WEIGHTS, "w13_scale", "w2_scale")
_BIASED = ("w13_bias", "w2_bias")

_FP8 = Functions(
    "oracle.fp8",
    "oracle.fp8:convert_to_fp8_moe_kernel_format",
    _SCALED,
    "oracle.fp8:make_fp8_moe_quant_config",
    "oracle.fp8:make_fp8_moe_kernel",
)
_MXFP4 = Functions(
    "oracle.mxfp4",
    "oracle.mxfp4:convert_weight_to_mxfp4_moe_kernel_format",
    (*_SCALED, *_BIASED),
    "oracle.mxfp4:make_mxfp4_moe_quant_config",
    "oracle.mxfp4:make_mxfp4_moe_kernel",
    {"swigluoai": "oracle.mxfp4:convert_gpt_oss_weight_to_mxfp4_moe_kernel_format"},
)
FUNCTIONS = {
    "unquantized": Functions(
        "oracle.unquantized",
        "oracle.unquantized:convert_to_unquantized_kernel_format",
        _WEIGHTS,
        "config:biased_moe_quant_config",
        "oracle.unquantized:make_unquantized_moe_kernel",
    ),
    "fp8": _FP8,
    "mxfp8": _FP8,
    "int8": Functions(
        "oracle.int8",
        "oracle.int8:convert_to_int8_moe_kernel_format",
        _WEIGHTS,
        "oracle.int8:make_int8_moe_quant_config",
        "oracle.int8:make_int8_moe_kernel",
    ),
    "int_wna16": Functions(
        "oracle.int_wna16",
        "oracle.int_wna16:convert_to_wna16_moe_kernel_format",
        (*_SCALED, "w13_zp", "w2_zp", "a13_scale", "a2_scale", *_BIASED),
        "oracle.int_wna16:make_wna16_moe_quant_config",
        "oracle.int_wna16:make_wna16_moe_kernel",
    ),
    "mxfp4": _MXFP4,
    "mxfp4_deepseek_v4": _MXFP4,
    "nvfp4": Functions(
        "oracle.nvfp4",
        "oracle.nvfp4:convert_to_nvfp4_moe_kernel_format",
        (
            *("w13", "w13_scale", "w13_scale_2", "a13_scale"),
            *("w2", "w2_scale", "w2_scale_2", "a2_scale"),
        ),
        "oracle.nvfp4:make_nvfp4_moe_quant_config",
        "oracle.nvfp4:make_nvfp4_moe_kernel",
    ),
    "w4a8": Functions(
        "oracle.w4a8",
        "oracle.w4a8:convert_to_w4a8_moe_kernel_format",
        (*_SCALED, "w13_scale_2", "w2_scale_2", "b_strides1", "b_strides2"),
        "oracle.w4a8:make_w4a8_moe_quant_config",
        "oracle.w4a8:make_w4a8_moe_kernel",
    ),
    "w4a8_int8": Functions(
        "oracle.w4a8_int8",
        "oracle.w4a8_int8:convert_to_w4a8_int8_moe_format",
        (*_SCALED, *_BIASED),
        "oracle.w4a8_int8:make_w4a8_int8_moe_quant_config",
        "oracle.w4a8_int8:make_w4a8_int8_moe_kernel",
    ),
}

_OUR_NAMES = {
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


def is_vllms(kernel: str | type) -> bool:
    """Whether a class, or the "module:Class" of one, is vLLM's."""
    module = kernel if isinstance(kernel, str) else kernel.__module__
    return module.partition(".")[0] == PACKAGE.partition(".")[0]


def convert(
    oracle: str,
    backend: Enum,
    moe_config: Any,
    weights: LayerWeights,
    activation_key: QuantKey | None,
    **others: Any,
) -> LayerWeights:
    """``weights`` as vLLM converts them for ``backend``, whose member vLLM has under that name.

    ``weights`` are as vLLM's quantization methods pass them, ``moe_config`` is vLLM's,
    ``others`` are what its function takes besides (layer, quant_config, group_size, ...). Tensors
    that the function does not return stay; what it returns and LayerWeights has no name for is
    in ``others`` of the result. A conversion that works in place, on the layer, changes nothing
    here. Raises ValueError for arguments that the function lacks or does not take.
    """
    functions = FUNCTIONS[oracle]
    require_vllms(moe_config)
    activation = moe_config.activation
    function = _function((functions.convert_of or {}).get(activation.value, functions.convert))
    result = _call(
        function,
        others,
        backend=_theirs(backend),
        moe_config=moe_config,
        activation=activation,
        activation_key=vllm_quant_key(activation_key),
        is_act_and_mul=moe_config.is_act_and_mul,
        use_separated_a4w4=getattr(moe_config, "use_mxfp4_w4a4_dsv4", False),
        input_dtype=None,
        _cache_permute_indices={},
        **weights._asdict(),
        **_of_keys(weights.weight_key, activation_key),
    )
    if result is None:
        return weights
    named = dict(zip(functions.converted, result, strict=True))
    ours = {name: named.pop(name) for name in functions.converted if name in weights._fields}
    return weights._replace(**ours, others={**weights.others, **others, **named})


def make_quant_config(
    oracle: str,
    backend: Enum,
    weights: LayerWeights | None,
    activation_key: QuantKey | None,
    **others: Any,
) -> Any:
    """Describe converted ``weights`` as vLLM's FusedMoEQuantConfig; others as in :func:`convert`.

    What their conversion left in ``others`` need not be given again.
    """
    functions = FUNCTIONS[oracle]
    known = {} if weights is None else {**weights._asdict(), **weights.others}
    return _call(
        _function(functions.make_quant_config),
        others,
        backend=_theirs(backend),
        **{"w13_bias": None, "w2_bias": None, **known},
        **_of_keys(None if weights is None else weights.weight_key, activation_key),
    )


def make_kernel(
    oracle: str,
    backend: Enum,
    moe_config: Any,
    quant_config: Any,
    experts_cls: type,
    routing_tables: Any = None,
    **others: Any,
) -> Any:
    """Join ``experts_cls`` with the preparation its deployment needs to vLLM's FusedMoEKernel.

    ``moe_config`` and ``quant_config`` are vLLM's; others as in :func:`convert`.
    """
    functions = FUNCTIONS[oracle]
    require_vllms(moe_config)
    return _call(
        _function(functions.make_kernel),
        others,
        backend=_theirs(backend),
        moe_config=moe_config,
        quant_config=quant_config,
        experts_cls=experts_cls,
        routing_tables=routing_tables,
    )


def _of_keys(weight_key: QuantKey | None, activation_key: QuantKey | None) -> dict[str, Any]:
    """What vLLM's functions ask of the quantization keys."""
    arguments: dict[str, Any] = {
        "use_a16": activation_key is None,
        "per_act_token_quant": activation_key is not None
        and activation_key.scale.group_shape == TOKEN,
    }
    if weight_key is not None:
        rows, columns = weight_key.scale.group_shape
        arguments |= {
            "per_out_ch_quant": (rows, columns) == CHANNEL,
            "num_bits": 4 if weight_key.dtype.startswith("uint4") else 8,
        }
        if rows > 0 and columns > 0:
            arguments |= {"block_shape": [rows, columns], "group_size": columns}
    return arguments


def _function(path: str) -> Callable[..., Any]:
    module, _, name = path.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(f"{PACKAGE}.{module}"), name)
    return function


def ask(function: str, **arguments: Any) -> Any:
    """What a function of vLLM's ("module:function" below :data:`PACKAGE`) answers.

    A backend of this package's Enums is passed as vLLM's member of that name.
    """
    if "backend" in arguments:
        arguments["backend"] = _theirs(arguments["backend"])
    return _function(function)(**arguments)


def _theirs(backend: Enum) -> Any:
    return backend if is_member(backend) else vllm_member(backend)


def require_vllms(moe_config: Any) -> None:
    """Raise TypeError for a layer of this package, which kernels of vLLM cannot be built for."""
    if isinstance(moe_config, FusedMoEConfig):
        raise TypeError(
            "kernels of vLLM take its own FusedMoEConfig (moe_config of its layer), which knows "
            "ranks and device, got moe_rules.vocabulary.layer.FusedMoEConfig"
        )


def _call(function: Callable[..., Any], given: Mapping[str, Any], **known: Any) -> Any:
    """Call with the arguments that it takes: ``given`` by a caller, else ``known`` here.

    Raises ValueError for one that is given and not taken, or needed and neither.
    """
    parameters = inspect.signature(function).parameters
    name_of = f"{function.__module__}.{function.__qualname__}"
    taken = {*parameters, *(_OUR_NAMES.get(name, name) for name in parameters)}
    for name in given:
        if name not in taken:
            raise ValueError(f"{name_of} takes no {name}{did_you_mean(name, taken)}")
    values, arguments = {**known, **given}, {}
    for name, parameter in parameters.items():
        names = [n for n in (name, _OUR_NAMES.get(name, name)) if n in values]
        value = next((values[n] for n in names if values[n] is not None), None)
        required = parameter.default is parameter.empty
        if required and not names:
            raise ValueError(f"{name_of} needs {name}, which was not given")
        if required or value is not None:
            arguments[name] = value
    return function(**arguments)
