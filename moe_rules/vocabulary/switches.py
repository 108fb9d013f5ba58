"""The switches: environment variables of the reference that its selection reads, and how."""

from __future__ import annotations

from collections.abc import Mapping

from moe_rules.vocabulary.fact_values import Fact, FactValue
from moe_rules.vocabulary.readings import Reading

_LAYERS = "vllm/model_executor/layers/fused_moe"

SWITCH_FACTS = (
    Fact(
        "VLLM_BATCH_INVARIANT",
        "request",
        "switch",
        "Results do not depend on the batch.",
        default=False,
        reading=Reading(
            "integer", "vllm/envs.py:638", (("each call", f"{_LAYERS}/modular_kernel.py:629"),)
        ),
    ),
    Fact(
        "VLLM_USE_DEEP_GEMM",
        "request",
        "switch",
        "DeepGEMM may be used.",
        default=True,
        reading=Reading(
            "integer",
            "vllm/envs.py:1600",
            (
                ("each call", f"{_LAYERS}/oracle/fp8.py:484"),
                ("first call", "vllm/utils/deep_gemm.py:118"),
            ),
        ),
    ),
    Fact(
        "VLLM_MOE_USE_DEEP_GEMM",
        "request",
        "switch",
        "DeepGEMM may be used for MoE.",
        default=True,
        reading=Reading(
            "integer", "vllm/envs.py:1602", (("each call", f"{_LAYERS}/oracle/fp8.py:484"),)
        ),
    ),
    Fact(
        "VLLM_ROCM_USE_AITER",
        "request",
        "switch",
        "AITER may be used.",
        default=False,
        reading=Reading(
            "true_words",
            "vllm/envs.py:1267",
            (
                ("import", "vllm/_aiter_ops.py:2201"),
                ("each call", f"{_LAYERS}/oracle/fp8.py:506"),
                ("each call", f"{_LAYERS}/oracle/unquantized.py:320"),
            ),
        ),
    ),
    Fact(
        "VLLM_ROCM_USE_AITER_MOE",
        "request",
        "switch",
        "AITER may be used for MoE.",
        default=True,
        reading=Reading(
            "true_words",
            "vllm/envs.py:1296",
            (
                ("import", "vllm/_aiter_ops.py:2206"),
                ("each call", f"{_LAYERS}/oracle/fp8.py:506"),
                ("each call", f"{_LAYERS}/oracle/unquantized.py:320"),
            ),
        ),
    ),
    Fact(
        "VLLM_ROCM_USE_AITER_MOE_A4W4_DSV4",
        "request",
        "switch",
        "AITER computes DeepSeek V4.1 with 4-bit activations.",
        reading=Reading(
            "integer", "vllm/envs.py:1311", (("each call", f"{_LAYERS}/config.py:1378"),)
        ),
    ),
    Fact(
        "VLLM_B12X_MOE_FP4_FORCE_A16",
        "request",
        "switch",
        "b12x keeps 16-bit activations.",
        default=False,
        reading=Reading(
            "integer",
            "vllm/envs.py:1681",
            (
                ("each call", f"{_LAYERS}/oracle/nvfp4.py:187"),
                ("each call", f"{_LAYERS}/oracle/mxfp4.py:640"),
            ),
        ),
    ),
    Fact(
        "VLLM_CPU_INT4_W4A8",
        "request",
        "switch",
        "int4 on the CPU computes in int8.",
        default=True,
        reading=Reading(
            "integer", "vllm/envs.py:924", (("each call", f"{_LAYERS}/oracle/int_wna16.py:174"),)
        ),
    ),
    Fact(
        "VLLM_USE_FLASHINFER_MOE_INT4",
        "request",
        "switch",
        "FlashInfer's MXINT4 may be used.",
        default=False,
        reading=Reading(
            "integer",
            "vllm/envs.py:1685",
            ((
                "first call",
                "vllm/model_executor/layers/quantization/utils/flashinfer_mxint4_moe.py:27",
            ),),
        ),
    ),
    Fact(
        "VLLM_HUMMING_MOE_GEMM_TYPE",
        "request",
        "enum",
        "Which of Humming's GEMMs serves MoE layers; with any other text, none does.",
        ("auto", "indexed", "grouped", "grouped_contiguous", "grouped_masked"),
        nullable=True,
        reading=Reading(
            "lower_case",
            "vllm/envs.py:1580",
            (("each call", f"{_LAYERS}/experts/fused_humming_moe.py:113"),),
        ),
    ),
)  # fmt: skip
"""The facts that are switches, in the group "request"."""

SWITCHES: dict[str, Reading] = {
    fact.name: fact.reading for fact in SWITCH_FACTS if fact.reading is not None
}
"""How the reference reads each switch, by its name."""


def switches_from_environ(
    environ: Mapping[str, str], at_import: Mapping[str, str] | None = None
) -> dict[str, FactValue]:
    """The switches that ``environ`` sets, read as the reference reads them.

    An :class:`~moe_rules.vocabulary.readings.Unreadable` stands for text on which it would fail.
    ``at_import`` is the environment as it was when the reference was imported, from which it has
    the switches that it reads then; ``environ`` if absent.
    """
    found: dict[str, FactValue] = {}
    for name, reading in SWITCHES.items():
        source = at_import if at_import is not None and reading.at_import else environ
        if name in source:
            found[name] = reading.value(name, source[name])
    return found
