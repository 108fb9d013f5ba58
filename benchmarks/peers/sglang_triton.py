"""SGLang's ``fused_experts_impl`` with its tuned configurations.

Its Triton kernels run from its sources; what it has compiled (the sort, the activation, FP8
quantization) is :mod:`benchmarks.peers.operators`, and its own Triton sum that of many tokens.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from types import SimpleNamespace
from typing import Any

import torch
from moe_kernels.benchmark.peers import Peer, Run
from moe_kernels.testing import RandomLayer

from benchmarks.peers import operators
from benchmarks.peers.partial import PartialPackage
from benchmarks.peers.sources import Quiet, hopper, source_of
from moe_rules.vocabulary.quant_keys import CHANNEL

_UTILS = "srt.layers.moe.moe_runner.triton_utils"
_KERNELS = "kernels.ops.moe.fused_moe_triton_kernels"
_REAL = (
    _UTILS,
    f"{_UTILS}.fused_moe",
    f"{_UTILS}.fused_moe_triton_config",
    _KERNELS,
    "kernels.ops.quantization.int8_kernel",
)
VERSION = "0.5.23"


def _align(topk_ids: torch.Tensor, block_size: int, num_experts: int, **_: Any) -> Any:
    """Its sort, which gives pairs without a local expert (-1) blocks of an expert -1."""
    return operators.align_local(topk_ids, block_size, num_experts)


def _sum(x: torch.Tensor, out: torch.Tensor, scale: float) -> None:
    importlib.import_module(f"sglang.{_KERNELS}").moe_sum_reduce_triton(x, out, scale)


def _silu_and_mul(x: torch.Tensor, out: torch.Tensor, **_: Any) -> None:
    operators.silu_and_mul(out, x)


def _per_token_group_quant(x: torch.Tensor, *, group_size: int, **_: Any) -> Any:
    return operators.per_token_group_quant_fp8(x, group_size)


@functools.cache
def _module() -> Any:
    """SGLang's module of these experts. Raises PeerUnavailableError without its sources."""
    folder = source_of("sglang")
    platform = hopper()
    no = dict.fromkeys(("is_hip", "is_cpu", "is_xpu", "is_musa", "cpu_has_amx_support"))
    off = SimpleNamespace(get=lambda: False)
    execution = SimpleNamespace(
        moe=SimpleNamespace(enable_fused_moe_sum_all_reduce=False),
        deterministic=SimpleNamespace(enable_deterministic_inference=False),
    )
    quantization = {
        "per_token_group_quant_fp8": operators.per_token_group_quant_fp8,
        "sglang_per_token_group_quant_fp8": operators.per_token_group_quant_fp8,
        "scaled_fp8_quant": operators.scaled_fp8_quant,
    }
    given: dict[str, dict[str, Any]] = {
        "sglang.kernels.jit.utils": {"is_arch_support_pdl": lambda: True},
        "sglang.kernels.ops.activation.activation": {"silu_and_mul": _silu_and_mul},
        "sglang.kernels.ops.quantization.fp8_kernel": quantization,
        "sglang.kernels.ops.quantization.per_token_group_quant": {
            "per_token_group_quant": _per_token_group_quant
        },
        "sglang.srt.batch_invariant_ops": {"is_batch_invariant_mode_enabled": lambda: False},
        "sglang.srt.distributed.device_communicators.pynccl_allocator": {
            "use_symmetric_memory": lambda *_, **__: contextlib.nullcontext()
        },
        "sglang.srt.environ": {"envs": SimpleNamespace(SGLANG_USE_AITER=off)},
        "sglang.srt.layers.dp_attention": {"is_allocation_symmetric": lambda: False},
        "sglang.srt.layers.moe.utils": {"get_moe_padding_size": lambda _: 0},
        "sglang.srt.runtime_context": {
            "get_exec": lambda: execution,
            "get_parallel": lambda: SimpleNamespace(tp_group=None),
        },
        "sglang.srt.utils": {
            **{name: lambda: False for name in no},
            "is_cuda": platform.is_cuda,
            "is_sm90_supported": lambda: True,
            "get_bool_env_var": lambda *_: False,
            "get_device_name": torch.cuda.get_device_name,
        },
        "sglang.srt.utils.custom_op": {"register_custom_op": lambda **_: lambda f: f},
        f"sglang.{_UTILS}.moe_align_block_size": {"moe_align_block_size": _align},
    }
    PartialPackage(folder, _REAL, given).install()
    PartialPackage(
        folder.parent / "sgl_kernel", (), {"sgl_kernel": {"moe_sum_reduce": _sum}}
    ).install()
    # It compiles gpt-oss' activation with inductor, maybe in many processes at once.
    importlib.import_module("torch._inductor.config").compile_threads = 1
    module: Any = importlib.import_module(f"sglang.{_UTILS}.fused_moe")
    for part in ("fused_moe", "fused_moe_triton_config"):
        vars(importlib.import_module(f"sglang.{_UTILS}.{part}"))["logger"] = Quiet()
    return module


def _scheme(layer: RandomLayer) -> dict[str, Any] | None:
    """Its arguments for the layer's scheme; None for one that it does not run."""
    quant = layer.quant_config
    scales = {"w1_scale": quant.w13_scale, "w2_scale": quant.w2_scale}
    if quant.weight_key is None:
        return {}
    if quant.activation_key is None:
        # These kernels leave biases out.
        unbiased = quant.w13_bias is None and quant.w2_bias is None
        if quant.weight_format not in ("int4", "uint8") or not unbiased:
            return None
        assert quant.w13_scale is not None
        bits = 4 if quant.weight_format == "int4" else 8
        group = [0, layer.moe_config.hidden_dim // quant.w13_scale.shape[2]]
        flags = {f"use_int{bits}_w{bits}a16": True, "block_shape": group}
        return {**scales, **flags, "w1_zp": quant.w13_zp, "w2_zp": quant.w2_zp}
    if quant.weight_format not in ("fp8", "int8"):
        return None
    block = quant.weight_block_shape
    return {
        **scales,
        f"use_{quant.weight_format}_w8a8": True,
        "per_channel_quant": quant.weight_key.scale.group_shape == CHANNEL,
        "block_shape": None if block is None else list(block),
        "a1_scale": quant.a13_scale,
        "a2_scale": quant.a2_scale,
    }


def bind(layer: RandomLayer) -> Run | None:
    """The experts, and the ids of local experts that its dispatcher makes before."""
    moe, quant = layer.moe_config, layer.quant_config
    scheme = _scheme(layer)
    if scheme is None or moe.activation not in ("silu", "swigluoai"):
        return None
    module = _module()
    if moe.activation == "swigluoai":
        scheme |= {"gemm1_alpha": 1.702, "gemm1_limit": 7.0}
    expert_map = layer.expert_map

    def run(tokens: RandomLayer) -> torch.Tensor:
        ids = tokens.topk_ids
        if expert_map is not None:
            ids = expert_map[ids]
        output: torch.Tensor = module.fused_experts_impl(
            tokens.hidden_states,
            layer.w13,
            layer.w2,
            tokens.topk_weights,
            ids,
            quant.w13_bias,
            quant.w2_bias,
            filter_expert=expert_map is not None,
            **scheme,
        )
        return output

    return run


def about() -> str:
    """Its version, and what is not its own."""
    _module()
    return f"SGLang {VERSION}, this project's compiled operators"


PEERS = {"sglang_triton": Peer(bind, about)}
