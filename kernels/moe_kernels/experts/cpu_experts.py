"""Experts for CPUs in torch: tokens grouped by expert, one product per active expert and GEMM."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch

from moe_kernels.activation import ActivationParameters, apply_activation
from moe_kernels.cpu.compiled import Segment
from moe_kernels.cpu.packed_weights import PACKED, stands_for_packed
from moe_kernels.experts.cpu_products import ExpertLinear
from moe_kernels.experts.weight_specs import check_weights, weight_specs
from moe_kernels.modular_kernel import (
    FusedMoEExperts,
    FusedMoEExpertsMonolithic,
    PrepareResult,
)
from moe_kernels.ops.library import register_operator
from moe_kernels.quant_config import FusedMoEQuantConfig
from moe_kernels.routing import Routing
from moe_rules.vocabulary.layer import FusedMoEConfig
from moe_rules.vocabulary.quant_keys import TENSOR


def _fake_cpu_experts(hidden_states: torch.Tensor, *_: object) -> torch.Tensor:
    return hidden_states.new_empty(hidden_states.shape)


@register_operator(_fake_cpu_experts)
def cpu_experts(
    hidden_states: torch.Tensor,
    w13: torch.Tensor,
    w2: torch.Tensor,
    topk_weights: torch.Tensor | None,
    topk_ids: torch.Tensor,
    global_num_experts: int,
    expert_map: torch.Tensor | None,
    activation: str,
    limit: float | None,
    alpha: float,
    beta: float,
    situ_beta: float,
    situ_linear_beta: float | None,
    weight_format: str | None,
    weight_group_shape: list[int],
    activation_format: str | None,
    activation_group_shape: list[int],
    w13_tensors: list[torch.Tensor | None],
    w2_tensors: list[torch.Tensor | None],
    packed: int | None,
) -> torch.Tensor:
    """Run the layer expert by expert; arguments as in :class:`CPUUnquantizedExperts`.

    Weights in ``weight_format`` (:mod:`moe_kernels.quantization.schemes`) are dequantized to the
    dtype of ``hidden_states``. With ``activation_format`` the inputs of both GEMMs are rounded to
    its grid. ``topk_weights`` None: the tokens are weighed already. ``w13_tensors``,
    ``w2_tensors``: :meth:`moe_kernels.quant_config.FusedMoEQuantConfig.gemm_tensors`. ``packed``:
    the key in :data:`moe_kernels.cpu.packed_weights.PACKED` of the weights for which w13 and w2
    only stand.
    """
    top_k, dtype = topk_ids.shape[1], hidden_states.dtype
    num_experts, n13 = w13.shape[:2]
    weight_groups = (weight_group_shape[0], weight_group_shape[1])
    blocks = weight_groups if weight_format == "fp8" and min(weight_groups) > 0 else None
    specs = weight_specs(w13, w13_tensors), weight_specs(w2, w2_tensors)
    check_weights(*specs, hidden_states.shape[1], activation, weight_format, blocks)
    if topk_ids.numel() == 0:
        return torch.zeros_like(hidden_states)
    parameters = ActivationParameters(limit, alpha, beta, situ_beta, situ_linear_beta)
    activation_groups = (activation_group_shape[0], activation_group_shape[1])
    form = weight_format, weight_groups, activation_format, activation_groups
    layers = None if packed is None else PACKED[packed]
    packed13, packed2 = (None, None) if layers is None else (layers.w13, layers.w2)
    scale, zero_point, _, bias, *_ = w13_tensors
    first = ExpertLinear(w13, scale, zero_point, bias, *form, packed13)
    scale, zero_point, _, bias, *_ = w2_tensors
    second = ExpertLinear(w2, scale, zero_point, bias, *form, packed2)

    # Our products write to buffers, which autograd does not allow.
    with torch.no_grad():
        local = Routing(topk_ids, global_num_experts, expert_map).local_experts().flatten()
        computed = (local >= 0).view(topk_ids.shape)
        # Pairs by expert, in order; those without a local expert last.
        order = torch.argsort(torch.where(local >= 0, local, num_experts), stable=True)
        counts = torch.bincount(local + 1, minlength=num_experts + 1).tolist()[1:]
        tokens = torch.div(order, top_k, rounding_mode="floor")
        # A scale per tensor is one over all experts.
        whole = activation_format is not None and activation_groups == TENSOR
        if whole:
            hidden_states = torch.where(computed.any(1, keepdim=True), hidden_states, 0.0)
        inputs = first.tokens(hidden_states)
        pair_output = hidden_states.new_empty(len(order), hidden_states.shape[1])
        pair_output[sum(counts) :] = 0
        for begin, end, segments in _runs(counts, len(order) if whole else _RUN_ELEMENTS // n13):
            h = hidden_states.new_empty(end - begin, n13)
            first.apply(inputs.select(tokens[begin:end]), segments, h)
            x = second.tokens(apply_activation(h.float(), activation, parameters).to(dtype))
            second.apply(x, segments, pair_output[begin:end])
        if topk_weights is None:
            topk_weights = torch.ones_like(topk_ids, dtype=torch.float32)
        return _weighted_sum(pair_output, order, torch.where(computed, topk_weights, 0.0))


_RUN_ELEMENTS = 1 << 20
"""The least size of a first GEMM's output that is worth a run of its own."""


def _runs(counts: list[int], max_pairs: int) -> Iterator[tuple[int, int, list[Segment]]]:
    """The experts that have pairs, in runs of ``max_pairs`` or one expert: where from, where to.

    The GEMMs and the activation of a run are computed at once: few calls where experts have few
    tokens, small buffers where they have many. Its segments count from its first pair.
    """
    run: list[Segment] = []
    begin = end = 0
    for expert, count in enumerate(counts):
        if count == 0:
            continue
        if run and end + count - begin > max_pairs:
            yield begin, end, run
            run, begin = [], end
        run.append((expert, end - begin, end - begin + count))
        end += count
    if run:
        yield begin, end, run


_SUM_ELEMENTS = 1 << 18
"""Elements of pairs that are summed at a time: as float32 1 MiB."""


def _weighted_sum(
    pair_output: torch.Tensor, order: torch.Tensor, topk_weights: torch.Tensor
) -> torch.Tensor:
    """Each token's sum of its pairs, weighted, in float32 and in the order of its slots: [M, H].

    pair_output: [M * topk, H] sorted by ``order``. topk_weights: [M, topk].
    """
    (num_tokens, top_k), hidden = topk_weights.shape, pair_output.shape[1]
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    weights = topk_weights.float()[:, None]
    output = pair_output.new_empty(num_tokens, hidden)
    step = max(1, _SUM_ELEMENTS // max(1, top_k * hidden))
    for start in range(0, num_tokens, step):
        stop = min(start + step, num_tokens)
        pairs = pair_output.index_select(0, place[start * top_k : stop * top_k]).float()
        output[start:stop] = torch.bmm(weights[start:stop], pairs.view(-1, top_k, hidden))[:, 0]
    return output


class CPUExperts(FusedMoEExperts):
    """The common part: what the layer's config says, handed to the operator.

    The products are those of torch's linear (oneDNN where it is built in), whatever the processor:
    vLLM's classes for one kind of processor are here others' under their names. Named after
    vLLM's ``fused_moe/experts/cpu_moe.py``.
    """

    weight_formats: ClassVar[tuple[str | None, ...]]
    """The formats of weights that the class takes; None: unquantized."""
    activation_formats: ClassVar[tuple[str | None, ...]] = (None,)
    """The formats of activations that it takes, where it quantizes them."""

    def __init__(self, moe_config: FusedMoEConfig, quant_config: FusedMoEQuantConfig) -> None:
        super().__init__(moe_config, quant_config)
        weight, activation = quant_config.weight_key, quant_config.activation_key
        self._activation_format = None
        if self.quantizes_activations:
            self._activation_format = quant_config.activation_format
        static = activation is not None and activation.scale.static
        if (
            self.weight_format not in self.weight_formats
            or self._activation_format not in self.activation_formats
            or (self._activation_format is not None and static)
        ):
            formats = [fmt or "unquantized" for fmt in self.weight_formats]
            dynamic = [fmt for fmt in self.activation_formats if fmt is not None]
            activations = f" and dynamic {' or '.join(dynamic)} activations" if dynamic else ""
            raise ValueError(
                f"{type(self).__name__} executes {' or '.join(formats)} weights{activations}, got "
                f"weights {weight} and activations {activation}"
            )
        self._packed = None if quant_config.packed is None else quant_config.packed.key
        self._weight_groups = list(TENSOR if weight is None else weight.scale.group_shape)
        self._activation_groups = list(quant_config.activation_group_shape or TENSOR)

    def apply(
        self, prepared: PrepareResult, w13: torch.Tensor, w2: torch.Tensor, activation: str
    ) -> torch.Tensor:
        """See :meth:`moe_kernels.modular_kernel.FusedMoEExperts.apply`.

        w13 and w2 are as :func:`moe_kernels.layouts.convert_to_kernel_format` returns them, or in
        the layout of :mod:`moe_kernels.quantization.schemes`, which takes longer.

        Raises ValueError for tensors that are not on the CPU, unquantized weights in another dtype
        than the tokens, packed ones without ``packed`` of their conversion in quant_config, and
        scales and biases that do not fit the weights.
        """
        name, hidden_states = type(self).__name__, prepared.hidden_states
        if hidden_states.device.type != "cpu":
            raise ValueError(f"{name} runs on the CPU, hidden_states is on {hidden_states.device}")
        fmt = self.weight_format
        expected = _DTYPES.get(fmt, torch.uint8) if fmt is not None else hidden_states.dtype
        if not expected == w13.dtype == w2.dtype:
            raise ValueError(
                f"{name} needs {expected} weights here, got w13 {w13.dtype}, w2 {w2.dtype}"
            )
        stand_ins = stands_for_packed(w13)
        if stand_ins and self._packed is None:
            raise ValueError(
                f"{name} got weights that were packed when they were converted; its quant_config "
                "needs packed=... of that conversion"
            )
        w13_tensors, w2_tensors = self.quant_config.gemm_tensors()
        output: torch.Tensor = cpu_experts(
            hidden_states,
            w13,
            w2,
            prepared.topk_weights,
            *prepared.routing,
            activation,
            *self.activation_parameters(activation),
            self.weight_format,
            self._weight_groups,
            self._activation_format,
            self._activation_groups,
            w13_tensors,
            w2_tensors,
            self._packed if stand_ins else None,
        )
        return output


class CPUUnquantizedExperts(CPUExperts):
    """Unquantized experts on any CPU, in bf16, fp16 or fp32."""

    weight_formats = (None,)


class X86CPUUnquantizedExperts(CPUUnquantizedExperts):
    """Unquantized experts on x86 with AMX."""


class ArmCPUUnquantizedExperts(CPUUnquantizedExperts):
    """Unquantized experts on Arm."""


class PowerCPUUnquantizedExperts(CPUUnquantizedExperts):
    """Unquantized experts on POWER."""


class CPUExpertsFp8W8A8(CPUExperts):
    """FP8 weights and dynamically quantized FP8 activations: block (r, c) with group (1, c)."""

    weight_formats = ("fp8",)
    activation_formats = ("fp8",)


class CPUExpertsFp8(CPUExperts):
    """FP8 weights, activations left in the layer's dtype (W8A16) whatever their key says."""

    weight_formats = ("fp8",)
    quantizes_activations = False


class CPUExpertsMxfp4(CPUExperts):
    """MXFP4 weights, activations left in the layer's dtype whatever their key says."""

    weight_formats = ("mxfp4",)
    quantizes_activations = False


class CPUExpertsInt8(CPUExperts):
    """INT8 weights scaled per channel, activations quantized per token."""

    weight_formats = ("int8",)
    activation_formats = ("int8",)


class ArmCPUExpertsInt8(CPUExpertsInt8):
    """INT8 experts on Arm."""


class PowerCPUExpertsInt8(CPUExpertsInt8):
    """INT8 experts on POWER."""


class ZenCPUExpertsInt8(CPUExpertsInt8):
    """INT8 experts on AMD's Zen."""


class CPUExpertsInt4(CPUExperts):
    """INT4 weights in groups, with or without zero points; 16-bit activations.

    The w4a8_int8 oracle's class of this name is another:
    :class:`moe_kernels.experts.cpu_int4_experts.CPUExpertsInt4`.
    """

    weight_formats = ("int4",)
    quantizes_activations = False


class ZentorchExpertsInt4(FusedMoEExpertsMonolithic, CPUExpertsInt4):
    """INT4 experts on AMD's Zen, from the router's logits. vLLM's ``zentorch_moe.py``."""


_DTYPES = {"fp8": torch.float8_e4m3fn, "int8": torch.int8}
"""The dtypes of weights; formats that are not here are uint8."""
