"""The kernel of one experts module: the tables select it, weights are converted for it."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from moe_kernels.cpu.packed_weights import stands_for_packed
from moe_kernels.dtypes import torch_dtype
from moe_kernels.layouts import LayerWeights, convert_to_kernel_format
from moe_kernels.modular_kernel import FusedMoEKernel
from moe_kernels.quant_config import FusedMoEQuantConfig
from moe_kernels.registry import KernelUnavailableError, our_names, runs_on_cpu
from moe_kernels.registry.bind import bind
from torch import nn

from moe_rules.engine.decision import Decision
from moe_rules.files.packaged import packaged_rules
from moe_rules.integrations.saying import reason_words, selection_line
from moe_rules.integrations.transformers.layer import (
    LayerTensors,
    NotServedError,
    beside_weights,
    layer_config,
    layer_tensors,
)
from moe_rules.integrations.transformers.packed import (
    can_let_go,
    lay_by_rows,
    let_go,
    make_packable,
    restore,
)
from moe_rules.integrations.transformers.quantization import Scheme, kernel_scale, scheme_of
from moe_rules.integrations.transformers.saying import say
from moe_rules.language.ruleset import overlay_paths
from moe_rules.machines.detection import System, detect, probe
from moe_rules.machines.machine import Machine
from moe_rules.selectors.errors import SelectionError
from moe_rules.selectors.selector import selector_in
from moe_rules.vocabulary.layer import FusedMoEConfig
from moe_rules.vocabulary.quant_keys import QuantKey

OVERLAY = "transformers"
"""The packaged overlay that says what runs inside transformers; the user's come after it."""

_TORCH_DEVICES = {"cuda": "cuda", "rocm": "cuda", "xpu": "xpu", "cpu": "cpu"}
"""What torch calls the devices of platforms."""


@dataclass(frozen=True, eq=False)
class Serving:
    """What computes a module with such weights: a kernel, or none, and why.

    ``weights``: where w13 and w2 are, and in which dtype. ``dtype``: of the tokens that the kernel
    takes. ``packed``: the weights were let go. ``beside``: the module's biases and scales, which
    the kernel has.
    """

    weights: tuple[tuple[torch.device, torch.dtype], ...]
    dtype: torch.dtype
    kernel: FusedMoEKernel | None
    activation: str
    refusal: str = ""
    packed: bool = False
    beside: Mapping[str, nn.Parameter] = field(default_factory=dict)

    def is_of(self, module: nn.Module) -> bool:
        """Whether the module has the biases and scales that the kernel has.

        Over ranks each call has parameters of its own, which lie where those of the last one did.
        """
        return all(_lies_at(module._parameters.get(name), x) for name, x in self.beside.items())

    def serves(self, w13: torch.Tensor, w2: torch.Tensor) -> bool:
        """Whether the weights are still where and what they were."""
        return (
            _kinds(w13, w2) == self.weights
            and stands_for_packed(w13) == self.packed
            and stands_for_packed(w2) == self.packed
        )


def _kinds(*weights: torch.Tensor) -> tuple[tuple[torch.device, torch.dtype], ...]:
    return tuple((w.device, w.dtype) for w in weights)


def _lies_at(x: torch.Tensor | None, other: torch.Tensor) -> bool:
    """Whether ``x`` is where ``other`` is."""
    return x is other or (x is not None and x.data_ptr() == other.data_ptr())


def serve(module: nn.Module, top_k: int, dtype: torch.dtype) -> Serving:
    """Select and bind the kernel of ``module``, and convert its weights.

    ``top_k``: experts per token. ``dtype``: of the tokens, for weights that are quantized; others
    are multiplied in their own. Says once per kind of layer what was selected and why. Raises
    FactError for a request and RuleFileError for an overlay that is wrong.
    """
    restore(module)
    tensors = layer_tensors(module)
    device, weights = tensors.w13.device, _kinds(tensors.w13, tensors.w2)
    dtype = tensors.w13.dtype if tensors.w13_scale is None else dtype
    del tensors  # they would keep the memory of weights that are converted
    try:
        with torch.no_grad(), torch.inference_mode(False):
            layer = layer_config(module, top_k, dtype)
            scheme = _scheme(module)
            kernel = _bound(module, layer, scheme, _decision(layer, scheme, device))
    except NotServedError as error:
        return Serving(weights, dtype, None, "", str(error))
    packed = stands_for_packed(layer_tensors(module).w13)
    own = {name: module._parameters.get(name) for name in beside_weights(module)}
    beside = {name: x for name, x in own.items() if x is not None}
    return Serving(weights, dtype, kernel, layer.activation, packed=packed, beside=beside)


def _scheme(module: nn.Module) -> Scheme:
    tensors = layer_tensors(module)
    try:
        return scheme_of(module, tensors.w13, tensors.w13_scale)
    except ValueError as error:
        raise NotServedError(str(error)) from None


def _decision(layer: FusedMoEConfig, scheme: Scheme, device: torch.device) -> Decision:
    """What the tables select; said in the log. Raises NotServedError for nothing."""
    overlays = (packaged_rules() / "overlays" / OVERLAY, *overlay_paths())
    selector = selector_in(os.environ, _machine(device.type), overlays)
    try:
        decision = selector.select(scheme.oracle, layer, scheme.weight_key, scheme.activation_key)
    except SelectionError as error:
        raise NotServedError(str(error)) from None
    say(logging.INFO, f"{selection_line(decision)}, on {device.type} in {layer.in_dtype}")
    return decision


@functools.cache
def _machine(device: str) -> Machine:
    """The machine at hand, if ``device`` is its. Raises NotServedError for another one."""
    if device == "cpu":
        without_accelerators = {**os.environ, "VLLM_TARGET_DEVICE": "cpu"}
        return probe(System(environ=without_accelerators)).machine
    machine = detect()
    if _TORCH_DEVICES.get(machine.device) != device:
        raise NotServedError(f"it is on {device}, but this machine is taken for {machine.device}")
    return machine


def _bound(
    module: nn.Module, layer: FusedMoEConfig, scheme: Scheme, decision: Decision
) -> FusedMoEKernel:
    """The kernel that was selected, and in ``module`` the weights that it takes."""
    name = decision.kernel
    if name is None:
        raise NotServedError(f"{decision.backend} has no kernel here: {reason_words(decision)}")
    if not torch.compiler.is_compiling():  # which goes on with the class that it has seen
        make_packable(module)
    converts = name in our_names() and can_let_go(module)
    if converts and runs_on_cpu(name):  # what reads or packs weights there takes whole rows
        lay_by_rows(module)
    tensors = layer_tensors(module)
    try:
        weights = _weights(tensors, scheme.weight_key)
        if converts:
            dtype = torch_dtype(layer.in_dtype)
            weights = convert_to_kernel_format(name, weights, scheme.weight_key, dtype=dtype)
        quant_config = FusedMoEQuantConfig(
            **weights.quant_fields(),
            activation_key=scheme.activation_key,
            w13_bias=tensors.w13_bias,
            w2_bias=tensors.w2_bias,
        )
        kernel = bind(name, layer, quant_config, oracle=decision.oracle)
    except (KernelUnavailableError, ValueError) as error:
        raise NotServedError(str(error)) from None
    if converts:
        let_go(module, weights)
    return kernel


def _weights(tensors: LayerTensors, key: QuantKey | None) -> LayerWeights:
    """The tensors of a module as checkpoints have them, without copies of weights.

    Raises ValueError for scales that are not what ``key`` says.
    """
    w13, w2 = tensors.w13.detach(), tensors.w2.detach()
    if key is None or tensors.w13_scale is None or tensors.w2_scale is None:
        return LayerWeights(w13, w2)
    scales = (kernel_scale(tensors.w13_scale, w13, key), kernel_scale(tensors.w2_scale, w2, key))
    return LayerWeights(w13, w2, *scales, weight_key=key)
