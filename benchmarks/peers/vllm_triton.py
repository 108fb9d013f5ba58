"""vLLM's Triton experts as a peer, from its file ``fused_moe.py`` alone.

Unpack ``vllm/model_executor/layers/fused_moe/fused_moe.py`` and ``configs/`` of a vLLM wheel into
``vendor-bench/vllm`` (ignored by git). Its ``fused_experts_impl`` runs with its tuned
configurations and its two GEMM launches. What it calls in vLLM's compiled extension is replaced:
the sort and the quantization by this project's kernels, the sum by torch's (which vLLM's own calls
for most topk), the activation by a plain kernel. What it asks of vLLM gets the answers of a Hopper
GPU without switches set.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import triton
import triton.language as tl
from moe_kernels.ops.moe_align_block_size import moe_align_block_size
from moe_kernels.ops.quantize_fp8 import quantize_fp8
from moe_kernels.testing import RandomLayer

from moe_rules.quant_keys import CHANNEL, TOKEN

SOURCE = Path("vendor-bench/vllm/fused_moe.py")
_LAYERS = "vllm.model_executor.layers.fused_moe"


def _quiet(*_: Any, **__: Any) -> None:
    return None


def _align(
    topk_ids: torch.Tensor,
    block_size: int,
    num_experts: int,
    expert_map: torch.Tensor | None,
    **_: Any,
) -> Any:
    # With a map, vLLM counts global experts; the local ones are those the map leaves.
    return moe_align_block_size(topk_ids, block_size, num_experts, num_experts, expert_map)


def _quantize(
    A: torch.Tensor,  # noqa: N803
    A_scale: torch.Tensor | None,  # noqa: N803
    quant_dtype: torch.dtype | None,
    per_act_token_quant: bool,
    block_shape: list[int] | None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    if quant_dtype is None:
        return A, None
    if block_shape is not None:
        return quantize_fp8(A, (1, block_shape[1]))
    return quantize_fp8(A, TOKEN if per_act_token_quant else (-1, -1), A_scale)


@triton.jit
def _silu_and_mul_kernel(x_ptr, out_ptr, width, BLOCK: tl.constexpr):  # noqa: N803
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = column < width
    gate = tl.load(x_ptr + row * width * 2 + column, mask=mask).to(tl.float32)
    up = tl.load(x_ptr + row * width * 2 + width + column, mask=mask).to(tl.float32)
    value = gate * tl.sigmoid(gate) * up
    tl.store(out_ptr + row * width + column, value.to(out_ptr.dtype.element_ty), mask=mask)


def _activate(_: Any, out: torch.Tensor, x: torch.Tensor) -> None:
    rows, width = out.shape
    block = min(1024, triton.next_power_of_2(width))
    _silu_and_mul_kernel[(rows, triton.cdiv(width, block))](x, out, width, BLOCK=block)


def _sum(x: torch.Tensor, out: torch.Tensor) -> None:
    torch.sum(x, dim=1, out=out)


class _Activation:
    """``MoEActivation``, of which one member is enough."""

    SILU = "silu"

    @staticmethod
    def from_str(name: str) -> str:
        return name


def _stand_ins() -> dict[str, dict[str, Any]]:
    """What fused_moe.py imports from vLLM, by module."""
    logger = SimpleNamespace(info_once=_quiet, warning_once=_quiet)
    modular = SimpleNamespace(adjust_N_for_activation=lambda n, _: n // 2)
    hopper = SimpleNamespace(
        is_rocm=lambda: False,
        is_xpu=lambda: False,
        is_device_capability=lambda capability: capability == 90,
        fp8_dtype=lambda: torch.float8_e4m3fn,
    )

    def dtype_name(*_: Any, use_fp8_w8a8: bool = False, **__: Any) -> str | None:
        return "fp8_w8a8" if use_fp8_w8a8 else None

    return {
        "vllm": {"_custom_ops": SimpleNamespace(moe_sum=_sum)},
        "vllm.envs": {"VLLM_BATCH_INVARIANT": False, "VLLM_TUNED_CONFIG_FOLDER": None},
        f"{_LAYERS}.modular_kernel": {"FusedMoEExpertsModular": modular},
        "vllm.logger": {"init_logger": lambda _: logger},
        f"{_LAYERS}.activation": {
            "MoEActivation": _Activation,
            "apply_moe_activation": _activate,
        },
        f"{_LAYERS}.config": {
            "FUSED_MOE_UNQUANTIZED_CONFIG": None,
            "FusedMoEQuantConfig": object,
            "_get_config_dtype_str": dtype_name,
        },
        f"{_LAYERS}.moe_align_block_size": {"moe_align_block_size": _align},
        f"{_LAYERS}.utils": {
            "enable_swap_ab": lambda block_m, block_n: block_m < 64 <= block_n,
            "moe_kernel_quantize_input": _quantize,
            "resolve_moe_use_td": lambda: False,
            "warn_if_moe_use_td_ineffective": _quiet,
        },
        _LAYERS: {"get_config": _quiet},
        "vllm.platforms": {"current_platform": hopper},
        "vllm.triton_utils": {"tl": tl, "triton": triton},
        "vllm.triton_utils.allocation": {"set_triton_allocator": _quiet},
        "vllm.utils.math_utils": {"next_power_of_2": triton.next_power_of_2},
        "vllm.utils.platform_utils": {
            "get_device_name_as_file_name": lambda: torch.cuda.get_device_name().replace(" ", "_")
        },
        "vllm.utils.torch_utils": {"direct_register_custom_op": _quiet},
    }


def _install() -> None:
    """Make modules of the stand-ins, which fused_moe.py imports from, some when it is called."""
    for name, attributes in _stand_ins().items():
        parts = name.split(".")
        for depth in range(1, len(parts) + 1):
            path = ".".join(parts[:depth])
            module = sys.modules.setdefault(path, ModuleType(path))
            if depth > 1:
                setattr(sys.modules[".".join(parts[: depth - 1])], parts[depth - 1], module)
        for attribute, value in attributes.items():
            setattr(sys.modules[name], attribute, value)


@functools.cache
def _load() -> ModuleType:
    _install()
    spec = importlib.util.spec_from_file_location("vllm_fused_moe", SOURCE.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Triton looks its kernels' module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def vllm_triton(layer: RandomLayer) -> Callable[[RandomLayer], torch.Tensor] | None:
    """``fused_experts_impl`` of vLLM, or None if its file is not there."""
    if not SOURCE.exists():
        return None
    module = _load()
    quant = layer.quant_config
    key = quant.weight_key
    block = quant.weight_block_shape

    def run(tokens: RandomLayer) -> torch.Tensor:
        output: torch.Tensor = module.fused_experts_impl(
            tokens.hidden_states,
            layer.w13,
            layer.w2,
            tokens.topk_weights,
            tokens.topk_ids,
            use_fp8_w8a8=key is not None,
            per_channel_quant=key is not None and key.scale.group_shape == CHANNEL,
            global_num_experts=layer.moe_config.num_experts,
            expert_map=layer.expert_map,
            w1_scale=quant.w13_scale,
            w2_scale=quant.w2_scale,
            a1_scale=quant.a13_scale,
            a2_scale=quant.a2_scale,
            block_shape=None if block is None else list(block),
        )
        return output

    return run
