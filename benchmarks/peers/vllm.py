"""vLLM's MoE layer made importable from its sources, and calls of its experts.

Its experts' classes, configurations (tuned ones included), Triton kernels and conversions of
weights run as they are. Its compiled operators do so too where its extensions load; elsewhere those
of :mod:`benchmarks.peers.operators` stand in, which serve its Triton experts alone. What it takes
from its engine is given here: platform, switches, logger and workspaces.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
import triton
import triton.language as tl
from moe_kernels.benchmark.peers import Adapter, Peer, PeerUnavailableError, Run
from moe_kernels.testing import RandomLayer

from benchmarks.peers import operators
from benchmarks.peers.partial import PartialPackage
from benchmarks.peers.sources import Quiet, cache_of, extension_of, hopper, source_of

VERSION = "0.33.0"

_MOE = "model_executor.layers.fused_moe"
_QUANT = "model_executor.layers.quantization.utils"
REAL = (
    *(
        f"{_MOE}.{name}"
        for name in (
            "activation",
            "config",
            "deep_gemm_utils",
            "fused_moe",
            "modular_kernel",
            "moe_fused_mul_sum",
            "moe_output",
            "moe_permute_unpermute",
            "topk_weight_and_reduce",
            "utils",
            "experts.cutlass_moe",
            "experts.deep_gemm_moe",
            "experts.fallback",
            "experts.fused_humming_moe",
            "experts.gpt_oss_triton_kernels_moe",
            "experts.lora_experts_mixin",
            "experts.marlin_moe",
            "experts.triton_deep_gemm_moe",
            "experts.triton_moe",
        )
    ),
    *(
        f"{_QUANT}.{name}"
        for name in (
            "humming",
            "humming.activation",
            "humming.moe",
            "humming.priority",
            "humming.schema",
            "int8_utils",
            "marlin_utils",
            "marlin_utils_fp4",
            "mxfp4_utils",
            "ocp_mx_utils",
            "quant_utils",
        )
    ),
    "scalar_type",
    "triton_utils.allocation",
    "utils.deep_gemm",
    "utils.humming",
    "utils.math_utils",
)
_COMPILED = ("_C_stable_libtorch.abi3.so", "_moe_C_stable_libtorch.abi3.so")
_USES_COMPILED = (
    "_custom_ops",
    f"{_MOE}.moe_align_block_size",
    f"{_QUANT}.fp8_utils",
    f"{_QUANT}.w8a8_utils",
)
_SWITCHES = {
    "VLLM_BATCH_INVARIANT": False,
    "VLLM_HUMMING_INPUT_QUANT_CONFIG": None,
    "VLLM_HUMMING_MOE_GEMM_TYPE": None,
    "VLLM_HUMMING_USE_F16_ACCUM": False,
    "VLLM_MARLIN_INPUT_DTYPE": None,
    "VLLM_MARLIN_USE_ATOMIC_ADD": False,
    "VLLM_TRITON_USE_TD": None,
    "VLLM_TUNED_CONFIG_FOLDER": None,
    "VLLM_USE_DEEP_GEMM": True,
    # Not the default: scales of activations are then rounded as the reference does.
    "VLLM_USE_DEEP_GEMM_E8M0": False,
}


@functools.cache
def compiled_problem() -> str | None:
    """Load vLLM's extensions; why not, if that is not possible."""
    folder = source_of("vllm")
    try:
        for name in _COMPILED:
            torch.ops.load_library(extension_of(folder, name))
    except OSError as error:
        return str(error).splitlines()[0]
    return None


class _Workspaces:
    """What vLLM's workspace manager keeps between calls: locks and scratch."""

    def __init__(self) -> None:
        self._kept: dict[Any, Any] = {}

    def get_persistent(
        self, key: Any, shape: Any, dtype: torch.dtype, zero_init: bool = False
    ) -> torch.Tensor:
        """The same zeros in every call; ``key`` ends in a stream, and calls here have one."""
        name = (key[0], tuple(shape), dtype)
        if name not in self._kept:
            self._kept[name] = torch.zeros(*shape, dtype=dtype, device="cuda")
        found: torch.Tensor = self._kept[name]
        return found

    def get_persistent_resource(self, key: Any, create: Callable[[], Any]) -> Any:
        if key not in self._kept:
            self._kept[key] = create()
        return self._kept[key]

    def is_locked(self) -> bool:
        return False

    def clear(self) -> None:
        """Forget everything, so that the memory of the layer before is free."""
        self._kept.clear()


_WORKSPACES = _Workspaces()


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
def _multiprocessors(_: Any = None) -> int:
    return torch.cuda.get_device_properties(0).multi_processor_count


@functools.cache
def _install() -> None:
    """Make vLLM's MoE layer importable. Raises PeerUnavailableError without its sources."""
    folder = source_of("vllm")
    sys.path.insert(0, str(folder / "third_party"))  # its triton_kernels and deep_gemm
    compiled = compiled_problem() is None
    given: dict[str, dict[str, Any]] = {
        "vllm": {"__version__": VERSION},
        "vllm.config": {
            "SchedulerConfig": SimpleNamespace(DEFAULT_MAX_NUM_BATCHED_TOKENS_FOR_BATCHED_DP=256)
        },
        "vllm.envs": {**_SWITCHES, "VLLM_CACHE_ROOT": str(cache_of("vllm"))},
        "vllm.forward_context": {"get_forward_context": lambda: SimpleNamespace(dp_metadata=None)},
        "vllm.logger": {"init_logger": lambda _: Quiet(), "logger": Quiet()},
        "vllm.platforms": {"current_platform": hopper()},
        "vllm.triton_utils": {"tl": tl, "triton": triton, "HAS_TRITON": True},
        "vllm.utils.import_utils": {
            "has_deep_gemm": lambda: True,
            "has_humming": lambda: True,
            "has_triton_kernels": lambda: True,
            "get_triton_kernels_version": lambda: "3.5.1",
        },
        "vllm.utils.platform_utils": {
            "get_device_name_as_file_name": lambda: torch.cuda.get_device_name().replace(" ", "_"),
            "num_compute_units": _multiprocessors,
        },
        "vllm.utils.torch_utils": {
            "current_stream": lambda: 0,
            "direct_register_custom_op": _register,
            "is_torch_equal_or_newer": lambda _: True,
        },
        "vllm.v1.worker.workspace": {
            "current_workspace_manager": lambda: _WORKSPACES,
            "is_workspace_manager_initialized": lambda: True,
        },
        f"vllm.{_MOE}": {"get_config": lambda: None},
    }
    if not compiled:
        given |= _stand_ins()
    real = (*REAL, *_USES_COMPILED) if compiled else REAL
    PartialPackage(folder, real, given).install()


def module(name: str) -> Any:
    """A module of vLLM, by its name below ``vllm``."""
    _install()
    return importlib.import_module(f"vllm.{name}")


def moe(name: str) -> Any:
    """A module of its MoE layer, by its name below ``fused_moe``."""
    return module(f"{_MOE}.{name}")


def quantization(name: str) -> Any:
    """A module of its conversions, by its name below ``quantization.utils``."""
    return module(f"{_QUANT}.{name}")


class MoEConfig:
    """The layer's configuration with what vLLM's has besides; ``changed`` fields win."""

    def __init__(self, layer: RandomLayer, **changed: Any) -> None:
        self._moe = layer.moe_config
        self.device = layer.w13.device
        self.in_dtype = layer.hidden_states.dtype
        self.activation = activation_of(layer)
        self.num_local_experts = len(layer.w13)
        self.__dict__.update(changed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._moe, name)


def activation_of(layer: RandomLayer) -> Any:
    """The layer's activation as a member of vLLM's Enum."""
    return moe("activation").MoEActivation.from_str(layer.moe_config.activation)


def call(
    experts: Any,
    layer: RandomLayer,
    weights: tuple[torch.Tensor, torch.Tensor],
    sizes: tuple[int, int],
    scheme: Any = None,
) -> Run | None:
    """Calls of ``experts`` as vLLM's modular kernel makes them, workspaces included.

    None where blocks of columns do not divide what is quantized, which vLLM's operator asserts.

    ``weights``: w13 and w2 as the experts have them. ``sizes``: the rows of w13 and the hidden size
    as they count them, padded. ``scheme``: by which the tokens are quantized before; None if they
    are not.
    """
    rows, hidden = sizes
    if scheme is not None and scheme.quant_dtype is not None and scheme.block_shape is not None:
        columns = scheme.block_shape[1]
        if hidden % columns or layer.w2.shape[2] % columns:
            return None
    global_experts, local_experts = layer.moe_config.num_experts, len(layer.w13)
    activation = activation_of(layer)
    quantize_input = moe("utils").moe_kernel_quantize_input

    def run(tokens: RandomLayer) -> torch.Tensor:
        x = tokens.hidden_states
        width = x.shape[1]
        if width != hidden:
            x = F.pad(x, (0, hidden - width))
        num_tokens, topk = tokens.topk_ids.shape
        counts = (num_tokens, rows, hidden, topk, global_experts, local_experts)
        shapes = experts.workspace_shapes(*counts, None, activation)[:2]
        workspaces = [x.new_empty(shape) for shape in shapes]
        output = torch.empty_like(x)
        x_scale = None
        if scheme is not None:
            x, x_scale = quantize_input(
                x,
                scheme.a1_scale,
                scheme.quant_dtype,
                scheme.per_act_token_quant,
                scheme.block_shape,
            )
        experts.apply(
            output,
            x,
            *weights,
            tokens.topk_weights,
            tokens.topk_ids,
            activation,
            global_experts,
            layer.expert_map,
            x_scale,
            None if scheme is None else scheme.a2_scale,
            *workspaces,
            None,
            False,
        )
        return output if width == hidden else output[:, :width]

    return run


def compiled_peer(bind: Adapter, name: str, *kernels: str) -> Peer:
    """A peer that cannot do without vLLM's compiled operators; ``kernels`` as in Peer."""

    def needed() -> None:
        problem = compiled_problem()
        if problem is not None:
            raise PeerUnavailableError(f"needs vLLM's compiled operators: {problem}")

    def bound(layer: RandomLayer) -> Run | None:
        needed()
        _WORKSPACES.clear()
        return bind(layer)

    def about() -> str:
        needed()
        return f"{name} as vLLM {VERSION} runs it"

    return Peer(bound, about, frozenset(kernels))
