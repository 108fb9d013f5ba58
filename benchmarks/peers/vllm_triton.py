"""vLLM's ``TritonExperts`` and ``TritonWNA16Experts``, as its modular kernel runs them.

Its experts' classes, configurations (tuned ones included) and Triton kernels run from its
sources. Its compiled operators do so too where its extensions load; elsewhere those of
:mod:`benchmarks.peers.operators` stand in.
"""

from __future__ import annotations

import functools
import importlib
import math
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import triton
import triton.language as tl
from moe_kernels.benchmark.peers import Peer, Run
from moe_kernels.testing import RandomLayer

from benchmarks.peers import operators
from benchmarks.peers.partial import PartialPackage
from benchmarks.peers.sources import Quiet, extension_of, hopper, source_of
from moe_rules.vocabulary.quant_keys import CHANNEL

_MOE = "model_executor.layers.fused_moe"
_QUANT = "model_executor.layers.quantization.utils"
_REAL = (
    f"{_MOE}.activation",
    f"{_MOE}.config",
    f"{_MOE}.fused_moe",
    f"{_MOE}.modular_kernel",
    f"{_MOE}.topk_weight_and_reduce",
    f"{_MOE}.utils",
    f"{_MOE}.experts.lora_experts_mixin",
    f"{_MOE}.experts.triton_moe",
    f"{_MOE}.experts.gpt_oss_triton_kernels_moe",
    f"{_QUANT}.int8_utils",
    f"{_QUANT}.mxfp4_utils",
    f"{_QUANT}.ocp_mx_utils",
    f"{_QUANT}.quant_utils",
    "scalar_type",
    "triton_utils.allocation",
    "utils.math_utils",
)
_COMPILED = ("_C_stable_libtorch.abi3.so", "_moe_C_stable_libtorch.abi3.so")
_USES_COMPILED = ("_custom_ops", f"{_MOE}.moe_align_block_size", f"{_QUANT}.fp8_utils")
VERSION = "0.33.0"


@functools.cache
def _load_compiled() -> str | None:
    """Load vLLM's extensions; why not, if that is not possible."""
    folder = source_of("vllm")
    try:
        for name in _COMPILED:
            torch.ops.load_library(extension_of(folder, name))
    except OSError as error:
        return str(error).splitlines()[0]
    return None


def _stand_ins() -> dict[str, dict[str, Any]]:
    """Given modules in place of those that call compiled operators."""
    library = torch.library.Library("_C", "FRAGMENT")
    for operator in (operators.silu_and_mul, operators.swigluoai_and_mul):
        name = operator.__name__
        library.define(f"{name}(Tensor(a!) out, Tensor x) -> ()")
        library.impl(name, operator, "CompositeExplicitAutograd")
    custom = {
        name: getattr(operators, name)
        for name in ("moe_sum", "scaled_fp8_quant", "silu_and_mul_per_block_quant")
    }
    return {
        "vllm._custom_ops": {**custom, "library": library},
        f"vllm.{_MOE}.moe_align_block_size": {"moe_align_block_size": operators.align},
        f"vllm.{_QUANT}.fp8_utils": {
            "per_token_group_quant_fp8": operators.per_token_group_quant_fp8
        },
    }


_LIBRARY = torch.library.Library("vllm", "FRAGMENT")


def _register(
    op_name: str, op_func: Callable[..., Any], mutates_args: tuple[str, ...] = (), **_: Any
) -> None:
    """Make ``op_func`` an operator ``torch.ops.vllm.<op_name>``."""
    schema = torch.library.infer_schema(op_func, mutates_args=mutates_args)
    _LIBRARY.define(op_name + schema)
    _LIBRARY.impl(op_name, op_func, "CompositeExplicitAutograd")


@functools.cache
def install() -> None:
    """Make vLLM's MoE layer importable. Raises PeerUnavailableError without its sources."""
    folder = source_of("vllm")
    sys.path.insert(0, str(folder / "third_party"))  # its triton_kernels
    compiled = _load_compiled() is None
    given: dict[str, dict[str, Any]] = {
        "vllm": {"__version__": VERSION},
        "vllm.config": {
            "SchedulerConfig": SimpleNamespace(DEFAULT_MAX_NUM_BATCHED_TOKENS_FOR_BATCHED_DP=256)
        },
        "vllm.envs": {
            "VLLM_BATCH_INVARIANT": False,
            "VLLM_TUNED_CONFIG_FOLDER": None,
            "VLLM_TRITON_USE_TD": None,
        },
        "vllm.logger": {"init_logger": lambda _: Quiet()},
        "vllm.platforms": {"current_platform": hopper()},
        "vllm.triton_utils": {"tl": tl, "triton": triton, "HAS_TRITON": True},
        "vllm.utils.import_utils": {
            "has_triton_kernels": lambda: True,
            "get_triton_kernels_version": lambda: "3.5.1",
        },
        "vllm.utils.deep_gemm": {"is_deep_gemm_e8m0_used": lambda: False},
        "vllm.utils.platform_utils": {
            "get_device_name_as_file_name": lambda: torch.cuda.get_device_name().replace(" ", "_")
        },
        "vllm.utils.torch_utils": {
            "direct_register_custom_op": _register,
            "is_torch_equal_or_newer": lambda _: True,
        },
        f"vllm.{_MOE}": {"get_config": lambda: None},
    }
    if not compiled:
        given |= _stand_ins()
    real = (*_REAL, *_USES_COMPILED) if compiled else _REAL
    PartialPackage(folder, real, given).install()


def module(name: str) -> Any:
    """A module of vLLM's MoE layer, by its name below ``fused_moe``."""
    install()
    return importlib.import_module(f"vllm.{_MOE}.{name}")


def _quant_config(layer: RandomLayer) -> Any:
    """VLLM's description of the layer's scheme; None for one that these experts do not run."""
    config, quant = module("config"), layer.quant_config
    biases = {"w1_bias": quant.w13_bias, "w2_bias": quant.w2_bias}
    if quant.weight_key is None:
        return config.biased_moe_quant_config(**biases)
    scales = {"w1_scale": quant.w13_scale, "w2_scale": quant.w2_scale}
    static = {"a1_scale": quant.a13_scale, "a2_scale": quant.a2_scale}
    if quant.activation_key is None:
        # These experts leave biases out.
        unbiased = quant.w13_bias is None and quant.w2_bias is None
        if quant.weight_format not in ("int4", "uint8") or not unbiased:
            return None
        bits = 4 if quant.weight_format == "int4" else 8
        make = getattr(config, f"int{bits}_w{bits}a16_moe_quant_config")
        assert quant.w13_scale is not None
        group = [0, layer.moe_config.hidden_dim // quant.w13_scale.shape[2]]
        return make(**scales, w1_zp=quant.w13_zp, w2_zp=quant.w2_zp, block_shape=group)
    per_channel = quant.weight_key.scale.group_shape == CHANNEL
    if quant.weight_format == "int8":
        make = config.int8_w8a8_moe_quant_config
        return make(**scales, **static, **biases, per_act_token_quant=per_channel)
    if quant.weight_format == "fp8":
        block = quant.weight_block_shape
        return config.fp8_w8a8_moe_quant_config(
            **scales,
            **static,
            **biases,
            per_act_token_quant=per_channel,
            per_out_ch_quant=per_channel,
            block_shape=None if block is None else list(block),
        )
    return None


def bind(layer: RandomLayer) -> Run | None:
    """The experts between the quantization of tokens and the sum, workspaces included."""
    quant = _quant_config(layer)
    if quant is None:
        return None
    moe = layer.moe_config
    weight_only = layer.quant_config.weight_key is not None and (
        layer.quant_config.activation_key is None
    )
    cls = module("experts.triton_moe")
    cls = cls.TritonWNA16Experts if weight_only else cls.TritonExperts
    experts = cls(moe, quant)
    activation = module("activation").MoEActivation.from_str(moe.activation)
    quantize_input = module("utils").moe_kernel_quantize_input
    num_rows, hidden = layer.w13.shape[1], layer.w2.shape[1]

    def run(tokens: RandomLayer) -> torch.Tensor:
        x = tokens.hidden_states
        num_tokens, topk = tokens.topk_ids.shape
        sizes = (num_tokens, num_rows, hidden, topk, moe.num_experts, len(layer.w13))
        shapes = experts.workspace_shapes(*sizes, None, activation)[:2]
        workspaces = [x.new_empty(math.prod(shape)) for shape in shapes]
        output = torch.empty_like(x)
        x, scale = quantize_input(
            x, quant.a1_scale, quant.quant_dtype, quant.per_act_token_quant, quant.block_shape
        )
        experts.apply(
            output,
            x,
            layer.w13,
            layer.w2,
            tokens.topk_weights,
            tokens.topk_ids,
            activation,
            moe.num_experts,
            layer.expert_map,
            scale,
            quant.a2_scale,
            *workspaces,
            None,
            False,
        )
        return output

    return run


def about() -> str:
    """Its version, and whose operators run."""
    problem = _load_compiled()
    whose = "its own" if problem is None else f"this project's ({problem})"
    return f"vLLM {VERSION}, {whose} compiled operators"


PEERS = {"vllm_triton": Peer(bind, about)}
