"""Where the reference is odd: the list is complete and in step, and every correction corrects."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from moe_rules.conformance.cases import case_files, read_cases
from moe_rules.files.packaged import packaged_rules
from moe_rules.files.problems import KeyPath
from moe_rules.files.yaml_source import read_yaml
from moe_rules.language.ruleset import load_platform, overlay_paths
from moe_rules.machines.machine import facts_of
from moe_rules.reporting import quirks
from moe_rules.reporting.generated import page
from moe_rules.selectors.errors import InvalidRequestError, NotSupportedError
from moe_rules.selectors.selector import Selector
from moe_rules.vocabulary.fact_values import FactValue
from moe_rules.vocabulary.layer import FusedMoEConfig, FusedMoEParallelConfig
from moe_rules.vocabulary.quant_keys import NAMED_KEYS
from moe_rules.vocabulary.table_names import PLATFORMS

SAMPLES = Path(__file__).parents[1] / "samples" / "dev"
OVERLAY = packaged_rules() / "overlays" / quirks.OVERLAY
ONLY_BIAS = {"has_bias": False}

# The documented list ------------------------------------------------------------------------------


def test_document_is_in_step() -> None:
    committed = page("quirks.md").read_text(encoding="utf-8")
    assert committed == quirks.document(), "run `python -m moe_rules.reporting.quirks --write`"


@pytest.mark.parametrize("platform", PLATFORMS)
def test_every_quirk_is_corrected_or_says_why_not(platform: str) -> None:
    found = quirks.quirks(platform)
    assert found
    assert [q.location for q in found if not q.corrections and not q.uncorrected] == []


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert quirks.main([]) == 0
    assert capsys.readouterr().out == quirks.document()
    assert quirks.main(["--wirte"]) == 2
    assert "usage" in capsys.readouterr().err


# The overlay --------------------------------------------------------------------------------------


def addressed(platform: str) -> list[tuple[KeyPath, KeyPath]]:
    return list(quirks._addressed(read_yaml(OVERLAY / f"{platform}.yaml")))


def entry(platform: str, place: KeyPath) -> Any:
    node = read_yaml(OVERLAY / f"{platform}.yaml").data
    for key in place:
        node = node[key]
    return node


def test_the_overlay_has_a_file_for_every_platform() -> None:
    assert sorted(p.stem for p in OVERLAY.iterdir()) == sorted(PLATFORMS)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_every_correction_belongs_to_a_quirk_and_says_why(platform: str) -> None:
    of_quirks = {location for quirk in quirks.quirks(platform) for location in quirk.corrections}
    source = read_yaml(OVERLAY / f"{platform}.yaml")
    for _, place in addressed(platform):
        assert source.key_at(place) in of_quirks, f"{platform}: {place} corrects no quirk"
        table = entry(platform, place)
        cases = table if isinstance(table, list) else [table]
        assert any(isinstance(case, dict) and case.get("because") for case in cases), place


@functools.cache
def selector(platform: str, corrected: bool) -> Selector:
    overlays = overlay_paths([quirks.OVERLAY]) if corrected else ()
    rules = load_platform(platform, overlays)
    assert rules.warnings == ()
    return Selector(rules, {}, unknown=())


def answer(
    platform: str, corrected: bool, oracle: str, config: FusedMoEConfig, **facts: FactValue
) -> str:
    """The backend, or the kind of error."""
    try:
        decision = selector(platform, corrected).select(oracle, config, **facts)  # type: ignore[arg-type]
    except InvalidRequestError:
        return "invalid_request"
    except NotSupportedError:
        return "not_supported"
    return str(decision.backend)


# Corrections, one case each -----------------------------------------------------------------------
# What the overlay addresses, the device and its software, the oracle, keys, what else is asked, the
# answers without and with the overlay. LAYER has what a case does not say.

LAYER: dict[str, Any] = {
    "num_experts": 8,
    "experts_per_token": 2,
    "hidden_dim": 1024,
    "intermediate_size": 1024,
    "activation": "silu",
    "routing_method": "Renormalize",
}
BATCHED = {"dp_size": 2, "ep_size": 2, "use_ep": True, "all2all_backend": "deepep_low_latency"}
EP = {"ep_size": 2, "use_ep": True}
GROUP = {"checkpoint_format": "compressed_tensors", "strategy": "group", "group_size": 128}
CHANNEL = {"checkpoint_format": "compressed_tensors", "strategy": "channel", "group_size": -1}
GPTQ = {"checkpoint_format": "auto_gptq", "group_size": 128, "may_have_bias": True}
LORA = {"is_lora_enabled": True}
DEEP_GEMM = {"VLLM_USE_DEEP_GEMM": True}
AITER = {"VLLM_ROCM_USE_AITER": True}
PER_TENSOR = ("kFp8StaticTensorSym", "kFp8StaticTensorSym")
BLOCK = ("kFp8Static128BlockSym", "kFp8Dynamic128Sym")
UNQUANTIZED, INT4, MXFP4 = (None, None), ("kInt4Static", None), (None, None)
MXFP8 = ("kMxfp8Static", "kMxfp8Dynamic")
INVALID, NOT_SUPPORTED = "invalid_request", "not_supported"


def request(name: str, **others: FactValue) -> dict[str, Any]:
    return {"moe_backend": name, **others}


H100, B200, A100 = ({"compute_capability": c} for c in ((9, 0), (10, 0), (8, 0)))
MI250, MI300, MI350, MI450 = ({"gfx": g} for g in ("gfx90a", "gfx942", "gfx950", "gfx1250"))
NAVI2 = {"gfx": "gfx1030"}
X86 = {"cpu_arch": "x86", "amx_tile": True, "amx_fp8": False}
AITER_ON = {"aiter": True, "aiter_fused_moe_gate_mode": True}

Row = tuple[str, Mapping[str, Any], str, tuple[str | None, str | None], Mapping[str, Any], str, str]

ROWS: dict[str, list[Row]] = {
    "cuda": [
        ("unquantized.shortcuts.lora_takes_triton", H100, "unquantized", UNQUANTIZED,
         {**LORA, **BATCHED}, "TRITON", NOT_SUPPORTED),
        ("unquantized.adjust.swigluoai_goes_last", {**B200, "flashinfer_cutlass_fused_moe": True},
         "unquantized", UNQUANTIZED, request("flashinfer_cutlass", activation="swigluoai"),
         "FLASHINFER_CUTLASS", INVALID),
        ("fp8.switches.deep_gemm_demanded", H100, "fp8", PER_TENSOR, DEEP_GEMM, INVALID, "TRITON"),
        ("fp8.switches.batched_deep_gemm_demanded", H100, "fp8", PER_TENSOR,
         {**DEEP_GEMM, **BATCHED}, INVALID, "BATCHED_TRITON"),
        ("fp8.switches.aiter_demanded", H100, "fp8", BLOCK, AITER, INVALID, "TRITON"),
        ("int_wna16.requests.marlin", A100, "int_wna16", INT4,
         request("marlin", **GROUP, **BATCHED), INVALID, "BATCHED_MARLIN"),
        ("int_wna16.backends.BATCHED_MARLIN", A100, "int_wna16", INT4,
         request("marlin", **GROUP, **BATCHED), INVALID, "BATCHED_MARLIN"),
        ("int_wna16.backends.TRITON", A100, "int_wna16", INT4, request("triton", **CHANNEL),
         "TRITON", INVALID),
        ("int_wna16.backends.HUMMING", {**H100, "humming": True}, "int_wna16", INT4, CHANNEL,
         "HUMMING", "MARLIN"),
        ("int_wna16.backends.EMULATION", A100, "int_wna16", INT4,
         request("emulation", has_bias=True, **GPTQ), "EMULATION", INVALID),
        ("mxfp4.requests.cutlass", {**B200, "mxfp4_experts_quant_op": True}, "mxfp4", MXFP4,
         request("cutlass"), INVALID, "CUTLASS_MXFP4_MXFP4"),
        ("mxfp8.requests.emulation", H100, "mxfp8", MXFP8, request("emulation"), INVALID,
         "EMULATION"),
        ("mxfp8.otherwise", H100, "mxfp8", MXFP8, BATCHED, INVALID, NOT_SUPPORTED),
        ("FlashInferExperts", {**B200, "flashinfer_cutlass_fused_moe": True}, "unquantized",
         UNQUANTIZED, {"has_bias": True}, "FLASHINFER_CUTLASS", "TRITON"),
        ("TritonWNA16Experts", A100, "int_wna16", INT4, request("triton", **GROUP, **LORA),
         "TRITON", INVALID),
        ("OCP_MXQuantizationEmulationTritonExperts", {**A100, "quark": True}, "mxfp4",
         (None, "kMxfp8Dynamic"), {}, "EMULATION", "MARLIN"),
        ("FlashInferMoeEpExperts", B200, "nvfp4", ("kNvfp4Static", "kNvfp4Dynamic"),
         request("flashinfer_moe_ep_cutedsl", **EP), "FLASHINFER_MOE_EP_CUTEDSL", INVALID),
        ("FlashInferMoeEpDeepGemmExperts", {**B200, "flashinfer": True}, "mxfp4", MXFP4,
         request("flashinfer_moe_ep_mega_deep_gemm", routing_method="DeepseekV4", **EP),
         "FLASHINFER_MOE_EP_DEEP_GEMM", INVALID),
    ],
    "rocm": [
        ("unquantized.shortcuts.lora_takes_triton", MI300, "unquantized", UNQUANTIZED,
         {**LORA, "num_experts": 1024}, "TRITON", NOT_SUPPORTED),
        ("fp8.switches.deep_gemm_demanded", MI300, "fp8", BLOCK, DEEP_GEMM, INVALID, "TRITON"),
        ("fp8.switches.aiter_demanded", MI300, "fp8", BLOCK, AITER, INVALID, "TRITON"),
        ("int_wna16.backends.TRITON", MI300, "int_wna16", INT4, request("triton", **CHANNEL),
         "TRITON", INVALID),
        ("int_wna16.backends.EMULATION", MI300, "int_wna16", INT4, {"has_bias": True, **GPTQ},
         "EMULATION", NOT_SUPPORTED),
        ("mxfp4.backends.AITER_TRITON_MXFP4_MXFP4", {**MI450, **AITER_ON}, "mxfp4",
         (None, "kMxfp4Dynamic"), AITER, "AITER_TRITON_MXFP4_BF16", "AITER_TRITON_MXFP4_MXFP4"),
        ("mxfp4_deepseek_v4.adjust.deepseek_v4_without_emulation", {**MI300, "quark": True},
         "mxfp4_deepseek_v4", MXFP4, {"routing_method": "DeepseekV4"}, NOT_SUPPORTED, "EMULATION"),
        ("mxfp8.requests.emulation", MI300, "mxfp8", MXFP8, request("emulation"), INVALID,
         "EMULATION"),
        ("mxfp8.otherwise", MI300, "mxfp8", MXFP8, BATCHED, INVALID, NOT_SUPPORTED),
        ("Mxfp8NativeTritonExperts", MI350, "mxfp8", MXFP8, LORA, "TRITON_MXFP8", "EMULATION"),
        ("AiterMxfp8Experts", {**MI350, **AITER_ON}, "mxfp8", MXFP8, {**AITER, **LORA},
         "AITER_MXFP8", "EMULATION"),
        ("TritonWNA16Experts", MI300, "int_wna16", INT4, {**GROUP, **LORA}, "TRITON", "EMULATION"),
        ("OCP_MXQuantizationEmulationTritonExperts",
         {**MI250, "quark": True, "triton_kernels": True}, "mxfp4", (None, "kMxfp8Dynamic"),
         {"activation": "swigluoai"}, "EMULATION", "TRITON"),
        ("AiterMxfp4Experts", {**MI350, **AITER_ON}, "mxfp4", (None, "kMxfp4Dynamic"),
         {**AITER, "has_bias": True}, "AITER_MXFP4_MXFP4", "AITER_MXFP4_BF16"),
        ("AiterW4A16ExpertsMonolithic", {**MI300, **AITER_ON, "triton_kernels": True}, "mxfp4",
         MXFP4, {**AITER, "VLLM_ROCM_USE_AITER_MOE": False, "activation": "swigluoai"},
         "AITER_TRITON_MXFP4_BF16", "TRITON"),
        ("AiterW4A8ExpertsMonolithic", {**MI350, **AITER_ON, "triton_kernels": True}, "mxfp4",
         (None, "kFp8StaticTensorSym"),
         {**AITER, "VLLM_ROCM_USE_AITER_MOE": False, "activation": "swigluoai"},
         "AITER_MXFP4_FP8", "TRITON"),
        ("AiterW4A4ExpertsMonolithic", {**MI450, **AITER_ON}, "mxfp4", (None, "kMxfp4Dynamic"),
         request("aiter_triton_mxfp4_mxfp4", VLLM_ROCM_USE_AITER_MOE=False, **AITER),
         "AITER_TRITON_MXFP4_MXFP4", INVALID),
        ("FlashInferMoeEpExperts", NAVI2, "nvfp4", ("kNvfp4Static", "kNvfp4Dynamic"),
         request("flashinfer_moe_ep_cutedsl", **EP), "FLASHINFER_MOE_EP_CUTEDSL", INVALID),
        ("FlashInferMoeEpDeepGemmExperts", NAVI2, "mxfp4", MXFP4,
         request("flashinfer_moe_ep_mega_deep_gemm", routing_method="DeepseekV4", **EP),
         "FLASHINFER_MOE_EP_DEEP_GEMM", INVALID),
    ],
    "xpu": [
        ("unquantized.shortcuts.lora_takes_triton", {}, "unquantized", UNQUANTIZED,
         {**LORA, **BATCHED}, "TRITON", NOT_SUPPORTED),
        ("unquantized.backends.BATCHED_TRITON", {}, "unquantized", UNQUANTIZED, BATCHED,
         NOT_SUPPORTED, "BATCHED_TRITON"),
        ("fp8.switches.deep_gemm_demanded", {}, "fp8", BLOCK, DEEP_GEMM, INVALID, "XPU"),
        ("fp8.switches.aiter_demanded", {}, "fp8", BLOCK, AITER, INVALID, "XPU"),
        ("fp8.otherwise", {}, "fp8", BLOCK, BATCHED, "NONE", NOT_SUPPORTED),
        ("int_wna16.backends.XPU", {}, "int_wna16", INT4, {**GROUP, "may_have_zp": True}, "XPU",
         "TRITON"),
        ("int_wna16.backends.TRITON", {}, "int_wna16", ("kInt8Static", None), GROUP,
         NOT_SUPPORTED, "TRITON"),
        ("mxfp4.otherwise", {}, "mxfp4", MXFP4, BATCHED, INVALID, NOT_SUPPORTED),
        ("mxfp8.otherwise", {}, "mxfp8", MXFP8, BATCHED, INVALID, NOT_SUPPORTED),
        ("TritonWNA16Experts", {}, "int_wna16", INT4, request("triton", **GROUP, **LORA),
         "TRITON", INVALID),
        ("OCP_MXQuantizationEmulationTritonExperts", {"quark": True}, "mxfp4",
         (None, "kMxfp8Dynamic"), {}, "EMULATION", "XPU"),
    ],
    "cpu": [
        ("unquantized.shortcuts.lora_takes_triton", X86, "unquantized", UNQUANTIZED, LORA,
         "TRITON", NOT_SUPPORTED),
        ("fp8.switches.deep_gemm_demanded", X86, "fp8", BLOCK, DEEP_GEMM, INVALID, "CPU"),
        ("fp8.switches.aiter_demanded", X86, "fp8", BLOCK, AITER, INVALID, "CPU"),
        ("fp8.otherwise", X86, "fp8", PER_TENSOR, {}, "NONE", NOT_SUPPORTED),
        ("int_wna16.backends.CPU", X86, "int_wna16", INT4, {"checkpoint_format": "moe_wna16"},
         "CPU", NOT_SUPPORTED),
    ],
    "unspecified": [
        ("unquantized.shortcuts.lora_takes_triton", {}, "unquantized", UNQUANTIZED, LORA,
         "TRITON", NOT_SUPPORTED),
        ("fp8.switches.deep_gemm_demanded", {}, "fp8", BLOCK, DEEP_GEMM, INVALID, NOT_SUPPORTED),
        ("fp8.switches.aiter_demanded", {}, "fp8", BLOCK, AITER, INVALID, NOT_SUPPORTED),
        ("fp8.otherwise", {}, "fp8", BLOCK, {}, "NONE", NOT_SUPPORTED),
    ],
    **{
        platform: [
            ("fp8.switches.deep_gemm_demanded", {}, "fp8", BLOCK, DEEP_GEMM, INVALID, "NONE"),
            ("fp8.switches.aiter_demanded", {}, "fp8", BLOCK, AITER, INVALID, "NONE"),
        ]
        for platform in ("tpu", "out_of_tree")
    },
}  # fmt: skip
for platform in ("cpu", "tpu", "out_of_tree", "unspecified"):
    ROWS[platform] += [
        ("Mxfp8EmulationTritonExperts", {}, "mxfp8", MXFP8, {}, "EMULATION", NOT_SUPPORTED),
        ("mxfp8.otherwise", {}, "mxfp8", MXFP8, BATCHED, INVALID, NOT_SUPPORTED),
    ]


def layer_and_facts(asked: Mapping[str, Any]) -> tuple[FusedMoEConfig, dict[str, Any]]:
    """Split what a case asks into the layer with its parallelism, and other facts."""
    parallel = {k: v for k, v in asked.items() if k in FusedMoEParallelConfig.__dataclass_fields__}
    rest = {k: v for k, v in asked.items() if k not in parallel}
    layer = {k: v for k, v in rest.items() if k in FusedMoEConfig.__dataclass_fields__}
    others = {k: v for k, v in rest.items() if k not in layer}
    config = FusedMoEConfig(
        **{**LAYER, **layer}, moe_parallel_config=FusedMoEParallelConfig(**parallel)
    )
    return config, others


OPTIONS: dict[str, FactValue] = {
    name: None for name in facts_of("quantization") if not name.endswith("_key")
} | dict.fromkeys(
    ("allow_vllm_cutlass", "may_have_zp", "may_have_bias", "allow_tile_padding"), False
)


@pytest.mark.parametrize(
    ("platform", "row"),
    [(platform, row) for platform, rows in ROWS.items() for row in rows],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_correction_changes_the_decision_it_is_about(platform: str, row: Row) -> None:
    _, machine, oracle, (weight, activation), asked, without, corrected = row
    config, others = layer_and_facts(asked)
    facts: dict[str, Any] = {
        **dict.fromkeys(facts_of("software"), False),
        **OPTIONS,
        "device": platform,
        **machine,
        **others,
        "weight_key": weight and NAMED_KEYS[weight],
        "activation_key": activation and NAMED_KEYS[activation],
    }
    answers = [answer(platform, overlay, oracle, config, **facts) for overlay in (False, True)]
    assert answers == [without, corrected]


# Biases: a layer that the kernel serves, taken from the recorded ones, and given biases --------


def tightened_for_biases(platform: str) -> Iterator[str]:
    kernels = read_yaml(OVERLAY / f"{platform}.yaml").data["kernels"]
    return (name for name, table in kernels.items() if table.get("requires") == ONLY_BIAS)


@functools.cache
def served() -> dict[tuple[str, str], dict[str, dict[str, FactValue]]]:
    """For each platform and kernel, by oracle, the facts of one recorded layer without biases."""
    found: dict[tuple[str, str], dict[str, dict[str, FactValue]]] = {}
    for path in case_files([SAMPLES]):
        for case in read_cases(path):
            facts = case.facts
            platform, kernel = str(facts["device"]), getattr(case.expect, "kernel", None)
            if kernel and not facts["has_bias"] and not facts["is_lora_enabled"]:
                found.setdefault((platform, kernel), {}).setdefault(case.oracle, facts)
    return found


@pytest.mark.parametrize(
    ("platform", "kernel"),
    [(platform, kernel) for platform in PLATFORMS for kernel in tightened_for_biases(platform)],
)
def test_kernels_without_biases_leave_layers_with_biases_to_others(
    platform: str, kernel: str
) -> None:
    left = set()
    for oracle, facts in served()[platform, kernel].items():
        assert (
            selector(platform, False).decide(oracle, {**facts, "has_bias": True}).kernel == kernel
        )
        if selector(platform, True).decide(oracle, facts).kernel == kernel:
            biased = selector(platform, True).decide(oracle, {**facts, "has_bias": True})
            left.add(biased.kernel != kernel)
    assert True in left


@pytest.mark.parametrize("platform", PLATFORMS)
def test_every_correction_has_a_case(platform: str) -> None:
    tested = {row[0] for row in ROWS[platform]} | set(tightened_for_biases(platform))
    for place in {place for _, place in addressed(platform)}:
        names = {".".join(map(str, a[1:])) for a, p in addressed(platform) if p == place}
        assert names & tested, f"no case for {platform}: {place}"
