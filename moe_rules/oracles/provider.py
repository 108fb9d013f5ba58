"""vLLM's own conversions, for backends whose kernels are vLLM's.

A table names the functions of vLLM 0.33 that convert an oracle's weights, describe their
quantization and build the kernel. Their arguments are bound by name: what vLLM calls otherwise
than this package is in one list of synonyms. vLLM is imported when a function is called.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any

from moe_rules.oracles.vllm_functions import (
    EVERY,
    FUNCTIONS,
    IN_LAYER,
    OUR_NAMES,
    PACKAGE,
    SHARED,
    Functions,
)
from moe_rules.oracles.vllm_objects import (
    are_ours,
    are_vllms,
    is_member,
    quant_key,
    vllm_member,
)
from moe_rules.vocabulary.fact_values import did_you_mean
from moe_rules.vocabulary.layer import FusedMoEConfig
from moe_rules.vocabulary.quant_keys import CHANNEL, TOKEN, QuantKey

if TYPE_CHECKING:
    from moe_kernels.layouts import LayerWeights


def is_vllms(kernel: str) -> bool:
    """Whether the "module:Class" of a kernel is vLLM's."""
    return kernel.partition(".")[0] == PACKAGE.partition(".")[0]


def convert(
    oracle: str,
    backend: Enum,
    moe_config: Any,
    weights: LayerWeights,
    activation_key: Any,
    quantization_method: str | None = None,
    **others: Any,
) -> LayerWeights:
    """``weights`` as vLLM converts them for ``backend``.

    ``weights`` are as vLLM's quantization methods pass them. ``backend``, ``moe_config``, the keys
    and ``others`` (what its function takes besides: layer, quant_config, group_size, ...) are
    vLLM's. ``quantization_method`` is the name of the checkpoint's, where the conversion depends
    on it.

    Tensors that the function does not return stay; what it returns and LayerWeights has no name
    for is in ``others`` of the result. Where experts process the layer after the kernel is built,
    a ``layer`` that is given gets what was converted, and the result is the layer's parameters;
    otherwise a conversion that works in place, on the layer, changes nothing here. Raises
    ValueError for arguments that the function lacks or does not take.
    """
    functions = FUNCTIONS[oracle]
    require_vllms(moe_config)
    arguments = {
        **weights._asdict(),
        **_of_keys(functions, _our_key(weights.weight_key), _our_key(activation_key)),
    }
    result = _call(
        _function(_conversion(oracle, quantization_method)),
        others,
        backend=backend,
        moe_config=moe_config,
        activation=moe_config.activation,
        activation_key=activation_key,
        is_act_and_mul=moe_config.is_act_and_mul,
        use_separated_a4w4=getattr(moe_config, "use_mxfp4_w4a4_dsv4", False),
        input_dtype=None,
        _cache_permute_indices={},
        **arguments,
    )
    if result is None:
        return weights
    named = dict(zip(functions.converted, result, strict=True))
    layer = others.get("layer")
    if layer is not None and functions.processed != ():
        named = _put_into(layer, named)
    ours = {name: named.pop(name) for name in functions.converted if name in weights._fields}
    return weights._replace(**ours, others={**weights.others, **others, **named})


def _conversion(oracle: str, quantization_method: str | None) -> str:
    functions = FUNCTIONS[oracle]
    if functions.convert_of is None:
        return functions.convert
    if quantization_method is None or quantization_method not in functions.convert_of:
        known = ", ".join(functions.convert_of)
        hint = did_you_mean(str(quantization_method), functions.convert_of)
        raise ValueError(
            f"how vLLM converts weights of oracle {oracle!r} depends on quantization_method, got "
            f"{quantization_method!r}{hint}; expected one of {known}"
        )
    return functions.convert_of[quantization_method]


def _put_into(layer: Any, named: Mapping[str, Any]) -> dict[str, Any]:
    """Make converted tensors parameters of vLLM's layer; what is none of them stays as it is."""
    from torch import Tensor

    replace_parameter = importlib.import_module("vllm.model_executor.utils").replace_parameter
    result = dict(named)
    for name, value in named.items():
        parameter = IN_LAYER.get(name, "")
        if isinstance(value, Tensor) and getattr(layer, parameter, None) is not None:
            replace_parameter(layer, parameter, value)
            result[name] = getattr(layer, parameter)
    return result


def make_quant_config(
    oracle: str,
    backend: Enum,
    weights: LayerWeights | None,
    activation_key: Any,
    **others: Any,
) -> Any:
    """Describe converted ``weights`` as vLLM's FusedMoEQuantConfig; others as in :func:`convert`.

    What their conversion left in ``others`` need not be given again.
    """
    functions = FUNCTIONS[oracle]
    known = {} if weights is None else {**weights._asdict(), **weights.others}
    weight_key = None if weights is None else weights.weight_key
    return _call(
        _function(functions.make_quant_config),
        others,
        backend=backend,
        **{"w13_bias": None, "w2_bias": None, **known},
        **_of_keys(functions, _our_key(weight_key), _our_key(activation_key)),
    )


def make_kernel(
    oracle: str,
    backend: Enum,
    moe_config: Any,
    quant_config: Any,
    experts_cls: type,
    routing_tables: Any = None,
    layer: Any = None,
    **others: Any,
) -> Any:
    """Join ``experts_cls`` with the preparation its deployment needs to vLLM's FusedMoEKernel.

    ``backend``, ``moe_config`` and ``quant_config`` are vLLM's; others as in :func:`convert`.
    ``layer`` is vLLM's, with the converted weights: as vLLM's quantization methods do, the
    experts are let process it (scales of activations are folded in, weights packed). Raises
    ValueError where they would and it is missing, or is not what ``quant_config`` describes.
    """
    functions = FUNCTIONS[oracle]
    require_vllms(moe_config)
    base = importlib.import_module(f"{PACKAGE}.modular_kernel").FusedMoEExperts
    hook = "process_weights_after_loading"
    processed = functions.processed is EVERY or backend.name in functions.processed
    processes = processed and getattr(experts_cls, hook) is not getattr(base, hook)
    if processes:
        _require_same(experts_cls, layer, quant_config)
    kernel = _call(
        _function(functions.make_kernel),
        others,
        backend=backend,
        moe_config=moe_config,
        quant_config=quant_config,
        experts_cls=experts_cls,
        routing_tables=routing_tables,
    )
    if processes:
        kernel.fused_experts.process_weights_after_loading(layer)
    return kernel


def _require_same(experts_cls: type, layer: Any, quant_config: Any) -> None:
    name = experts_cls.__name__
    if layer is None:
        raise ValueError(
            f"{name} processes its layer once the kernel is built: make_kernel needs layer, vLLM's "
            "layer with the converted weights"
        )
    for described, parameter in SHARED.items():
        ours = getattr(quant_config, described, None)
        theirs = getattr(layer, parameter, None)
        if ours is not None and theirs is not None and ours.data_ptr() != theirs.data_ptr():
            raise ValueError(
                f"{name} changes {parameter} of its layer in place, and {described} of "
                "quant_config is another tensor: convert with layer=, or make the quant config "
                "from the layer's parameters"
            )


def _our_key(key: Any) -> QuantKey | None:
    return key if isinstance(key, QuantKey) else quant_key(key)


def _of_keys(
    functions: Functions, weight_key: QuantKey | None, activation_key: QuantKey | None
) -> dict[str, Any]:
    """What vLLM's functions ask of the quantization keys."""
    arguments: dict[str, Any] = {
        "use_a16": activation_key is None,
        "per_act_token_quant": activation_key is not None
        and activation_key.scale.group_shape == TOKEN,
    }
    if weight_key is not None:
        shape = weight_key.scale.group_shape
        rows, columns = shape
        arguments |= {
            "per_out_ch_quant": shape == CHANNEL,
            "num_bits": 4 if weight_key.dtype.startswith("uint4") else 8,
        }
        if rows > 0 and columns > 0:
            arguments |= {"block_shape": [rows, columns], "group_size": columns}
        elif shape == CHANNEL:
            arguments |= {"block_shape": functions.channel_block, "group_size": -1}
    return arguments


def either(path: str, ours: Callable[..., Any]) -> Callable[..., Any]:
    """A function that is vLLM's at ``path`` for objects of vLLM's, and ``ours`` for ours.

    A call without any object of this package's is one as vLLM's quantization methods make it, and
    gets what vLLM's function returns. Raises TypeError for a mixture.
    """

    @functools.wraps(ours)
    def function(*arguments: Any, **named: Any) -> Any:
        values = (*arguments, *named.values())
        if not are_vllms(*values) and any(are_ours(value) for value in values):
            return ours(*arguments, **named)
        return _function(path)(*arguments, **named)

    function.__name__ = function.__qualname__ = path.partition(":")[2]
    return function


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
    taken = {*parameters, *(OUR_NAMES.get(name, name) for name in parameters)}
    for name in given:
        if name not in taken:
            raise ValueError(f"{name_of} takes no {name}{did_you_mean(name, taken)}")
    values, arguments = {**known, **given}, {}
    for name, parameter in parameters.items():
        names = [n for n in (name, OUR_NAMES.get(name, name)) if n in values]
        value = next((values[n] for n in names if values[n] is not None), None)
        required = parameter.default is parameter.empty
        if required and not names:
            raise ValueError(f"{name_of} needs {name}, which was not given")
        if required or value is not None:
            arguments[name] = value
    return function(**arguments)
