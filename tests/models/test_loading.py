"""What vLLM refuses after the selection, when it creates or loads a layer's weights."""

from __future__ import annotations

from typing import Any

import pytest

from moe_rules.models import CheckpointRefusedError, Deployment, LoadRefusal, derive_layers
from moe_rules.models.conditions import Context
from moe_rules.models.loading import load_refusals
from tests.models.checkpoints import (
    CPU,
    FP8_BLOCKS,
    FP8_TOKENS,
    FP8_WEIGHTS,
    GPTQ,
    H100,
    QUARK,
    compressed,
    qwen3,
)

B200 = {"device": "cuda", "compute_capability": (10, 0)}
ROCM = {"device": "rocm", "gfx": "gfx950"}
NVFP4 = {"quant_method": "modelopt", "quant_algo": "NVFP4"}
NVFP4_GROUPS = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}
INT4_GROUPS = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}
BLOCKS = {**FP8_WEIGHTS, "strategy": "block", "block_structure": [128, 128]}
QUARK_INT8 = {
    **QUARK,
    "global_quant_config": {
        "weight": {"dtype": "int8", "qscheme": "per_channel", "symmetric": True},
        "input_tensors": {"dtype": "int8", "qscheme": "per_channel", "is_dynamic": True},
    },
}


def refused(
    block: dict[str, Any] | None,
    backend: str | None = None,
    machine: dict[str, Any] = H100,
    fields: dict[str, Any] | None = None,
    quantization: str | None = None,
    **deployment: Any,
) -> str:
    """Why the layer would not load with a backend; empty if it would."""
    asked = Deployment(quantization=quantization, **deployment)
    (layer,) = derive_layers(qwen3(block, **(fields or {})), machine, asked)
    return "; ".join(one.reason for one in layer.loading if one.concerns(backend))


BALANCED = {"tensor_parallel_size": 4, "enable_expert_parallel": True, "enable_eplb": True}


@pytest.mark.parametrize(
    ("size", "tp_size", "reason"),
    [
        (640, 2, ""),  # blocks of 64 divide 320
        (640, 4, ""),
        (640, 8, "80 is not a multiple of 128"),
        (768, 1, ""),
        (768, 2, ""),
        (704, 1, ""),  # refined to 64
        (720, 1, "720 is not a multiple of 128"),
    ],
)
def test_fp8_blocks_have_to_divide_the_shard(size: int, tp_size: int, reason: str) -> None:
    fields = {"moe_intermediate_size": size}
    found = refused(FP8_BLOCKS, fields=fields, tensor_parallel_size=tp_size)
    assert found.endswith(reason)
    assert bool(found) == bool(reason)


def test_a_method_that_refines_no_blocks_refuses_where_another_does() -> None:
    fields = {"moe_intermediate_size": 640}
    block = compressed(BLOCKS, FP8_TOKENS, "float-quantized")
    assert "not a multiple of 128" in refused(block, fields=fields, tensor_parallel_size=2)
    assert refused(block, fields=fields) == ""


@pytest.mark.parametrize(
    ("ranks", "eplb", "redundant", "reason"),
    [
        (3, True, 0, "num_experts 128 is not a multiple of 3"),
        (3, True, 1, ""),
        (3, False, 0, ""),
        (4, True, 0, ""),
    ],
)
def test_balanced_experts_have_to_divide_over_the_ranks(
    ranks: int, eplb: bool, redundant: int, reason: str
) -> None:
    deployment = {
        "tensor_parallel_size": ranks,
        "enable_expert_parallel": True,
        "enable_eplb": eplb,
        "num_redundant_experts": redundant,
    }
    assert refused(None, fields={"num_attention_heads": 24}, **deployment).endswith(reason)


def test_a_class_that_does_not_balance_experts_checks_none() -> None:
    config = {
        "architectures": ["MiniMaxM2ForCausalLM"],
        "model_type": "minimax_m2",
        "num_attention_heads": 48,
        "num_local_experts": 256,
        "num_experts_per_tok": 8,
        "scoring_func": "sigmoid",
        "rotary_dim": 64,
        "num_hidden_layers": 1,
    }
    deployment = Deployment(
        tensor_parallel_size=3,
        enable_expert_parallel=True,
        enable_eplb=True,
        num_redundant_experts=2,
    )
    (layer,) = derive_layers(config, H100, deployment)
    assert layer.loading == ()
    assert layer.moe.num_experts == 256


@pytest.mark.parametrize(
    ("block", "quantization", "supported"),
    [
        (None, None, True),
        (FP8_BLOCKS, None, True),
        (NVFP4, None, True),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, None, False),
        (compressed(FP8_WEIGHTS, FP8_TOKENS, "float-quantized"), None, True),
        (GPTQ, None, False),
        (QUARK_INT8, None, False),
        (None, "mxfp8", True),
        (None, "experts_int8", True),
    ],
)
def test_methods_that_balance_no_experts(
    block: dict[str, Any] | None, quantization: str | None, supported: bool
) -> None:
    found = refused(block, quantization=quantization, **BALANCED)
    assert ("EPLB" in found) == (not supported)
    assert refused(block, quantization=quantization) == ""


@pytest.mark.parametrize(
    ("block", "able", "unable"),
    [
        (compressed(INT4_GROUPS, None, "pack-quantized"), "TRITON", "MARLIN"),
        (
            compressed(NVFP4_GROUPS, {**NVFP4_GROUPS, "dynamic": "local"}, "nvfp4-pack-quantized"),
            "FLASHINFER_TRTLLM",
            "VLLM_CUTLASS",
        ),
    ],
)
def test_backends_that_balance_no_experts(block: dict[str, Any], able: str, unable: str) -> None:
    assert refused(block, able, **BALANCED) == ""
    assert "EPLB" in refused(block, unable, **BALANCED)
    assert refused(block, unable) == ""


@pytest.mark.parametrize(
    ("block", "backend", "fields", "reason"),
    [
        (compressed(INT4_GROUPS, None, "pack-quantized"), "MARLIN", {}, ""),
        (
            compressed(INT4_GROUPS, None, "pack-quantized"),
            "MARLIN",
            {"moe_intermediate_size": 720},
            "720 is not a multiple of 32",
        ),
        (
            compressed(
                {**INT4_GROUPS, "strategy": "channel", "group_size": -1}, None, "pack-quantized"
            ),
            "TRITON",
            {},
            "quantized in groups only",
        ),
        (NVFP4, "VLLM_CUTLASS", {"moe_intermediate_size": 720}, "720 is not a multiple of 64"),
        (NVFP4, "FLASHINFER_TRTLLM", {"moe_intermediate_size": 720}, ""),
        (NVFP4, "MARLIN", {"hidden_size": 2080}, "2080 is not a multiple of 64"),
        (
            {"quant_method": "mxfp8"},
            "TRITON",
            {"hidden_size": 2064},
            "2064 is not a multiple of 32",
        ),
    ],
)
def test_sizes_that_weights_do_not_take(
    block: dict[str, Any], backend: str, fields: dict[str, Any], reason: str
) -> None:
    found = refused(block, backend, fields=fields)
    assert reason in found
    assert bool(found) == bool(reason)


def test_a_group_is_halved_until_it_divides() -> None:
    block = {"quant_method": "moe_wna16"}
    awq = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}
    asked = {"quantization": "moe_wna16"}
    assert (
        refused(
            {**awq, **block, "quant_method": "awq"}, fields={"moe_intermediate_size": 96}, **asked
        )
        == ""
    )
    assert "halved" in refused(awq, fields={"moe_intermediate_size": 80}, **asked)


@pytest.mark.parametrize(("backend", "served"), [("TRITON", True), ("MARLIN", False)])
def test_backends_without_scales_per_channel(backend: str, served: bool) -> None:
    found = refused(None, backend, quantization="fp8_per_channel")
    assert (found == "") == served


def test_what_divides_nothing_is_not_checked() -> None:
    context = Context({"size": 80, "text": "a", "zero": 0})
    checks = [
        {"of": "size", "multiple_of": unit, "because": "because"}
        for unit in ("absent", "text", "zero", 16)
    ]
    assert load_refusals(checks, context) == ()
    twice = [{"of": "size", "multiple_of": 32, "because": "because"}] * 2
    (found,) = load_refusals(twice, context)
    assert found == LoadRefusal("because: size 80 is not a multiple of 32")
    assert found.concerns(None)


@pytest.mark.parametrize(
    ("machine", "deployment", "reason"),
    [
        (H100, {"enable_eplb": True, "tensor_parallel_size": 2}, "needs expert parallelism"),
        (H100, {"enable_eplb": True, "enable_expert_parallel": True}, "or data parallelism"),
        (H100, {"num_redundant_experts": 2}, "redundant experts need"),
        (CPU, BALANCED, "CUDA, ROCm and XPU only"),
    ],
)
def test_deployments_that_balance_no_experts_are_refused(
    machine: dict[str, Any], deployment: dict[str, Any], reason: str
) -> None:
    with pytest.raises(CheckpointRefusedError, match=reason):
        derive_layers(qwen3(), machine, Deployment(**deployment))


def test_a_language_model_is_answered_without_its_vision_tower() -> None:
    config = {
        "architectures": ["Qwen4ExpForConditionalGeneration"],
        "model_type": "qwen4_exp",
        "text_config": {**qwen3(moe_intermediate_size=640), "model_type": "qwen4_exp_text"},
        "quantization_config": FP8_BLOCKS,
    }
    (padded,) = derive_layers(config, B200, Deployment(4, moe_backend="marlin"))
    assert padded.moe.intermediate_size_per_partition == 256
    (cut,) = derive_layers(config, B200, Deployment(8))
    assert cut.loading[0].reason.endswith("80 is not a multiple of 128")


@pytest.mark.parametrize("quant_method", ["awq", "awq_marlin", "auto_awq"])
def test_awq_by_any_name_outside_marlins_shapes(quant_method: str) -> None:
    block = {"quant_method": quant_method, "bits": 4, "group_size": 128, "zero_point": True}
    (layer,) = derive_layers(qwen3(block, moe_intermediate_size=704), H100)
    assert (layer.oracle, layer.options["quant_config"]["kind"]) == ("int_wna16", "moe_wna16")


@pytest.mark.parametrize(("group_size", "loads"), [(128, True), (-1, False), (0, False)])
def test_awq_needs_groups(group_size: int, *, loads: bool) -> None:
    block = {"quant_method": "awq", "bits": 4, "group_size": group_size, "zero_point": True}
    assert ("there are none" not in refused(block)) is loads
