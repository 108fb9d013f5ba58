"""What an older release of the reference derives from a model otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moe_rules.models import (
    CheckpointRefusedError,
    Deployment,
    ModelLayer,
    derive_layers,
    load_tables,
)
from tests.models.checkpoints import QUARK

MODELS = Path(__file__).parents[2] / "examples" / "models"
OLDER = load_tables(release="0.32")
H100 = {"device": "cuda", "compute_capability": (9, 0)}
MI350 = {"device": "rocm", "gfx": "gfx950"}


def layer(config: dict[str, Any], *, older: bool, **arguments: Any) -> ModelLayer:
    deployment = Deployment(**arguments)
    tables = OLDER if older else None
    return derive_layers(config, H100, deployment, tables=tables)[0]


def qwen(**fields: Any) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((MODELS / "Qwen3-30B-A3B.json").read_text())
    return {**config, **fields}


@pytest.mark.parametrize("method", ["fp8", None])
@pytest.mark.parametrize(
    ("older", "invariant", "key"),
    [
        (False, "1", "kFp8DynamicTokenSym"),
        (False, "0", "kFp8DynamicTensorSym"),
        (True, "1", "kFp8DynamicTensorSym"),
    ],
)
def test_scales_that_do_not_depend_on_the_batch(
    method: str | None, older: bool, invariant: str, key: str
) -> None:
    block = {"quant_method": "fp8", "activation_scheme": "dynamic"}
    config = qwen() if method else qwen(quantization_config=block)
    found = layer(config, older=older, quantization=method, env={"VLLM_BATCH_INVARIANT": invariant})
    assert found.activation_key is not None
    assert found.activation_key.name == key


QUARK_MXFP8 = {
    "dtype": "fp8_e4m3", "qscheme": "per_group", "group_size": 32, "scale_format": "e8m0",
}  # fmt: skip


def test_quark_experts_of_mxfp8() -> None:
    block = {
        **QUARK,
        "global_quant_config": {
            "weight": {**QUARK_MXFP8, "is_dynamic": False},
            "input_tensors": {**QUARK_MXFP8, "is_dynamic": True},
        },
    }
    config = qwen(quantization_config=block)
    assert layer(config, older=False).oracle == "mxfp8"
    with pytest.raises(CheckpointRefusedError, match="linear layers only"):
        layer(config, older=True)


def test_experts_of_a_quantized_checkpoint_are_not_quantized_anew() -> None:
    block = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
    config = qwen(quantization_config=block)
    asked = {"quantization_config": {"moe": "mxfp8"}}
    assert layer(config, older=False, **asked).oracle == "mxfp8"
    with pytest.raises(CheckpointRefusedError, match="cannot be quantized anew"):
        layer(config, older=True, **asked)
    names = [f"model.layers.{index}.mlp.experts" for index in range(48)]
    left_out = qwen(quantization_config={**block, "modules_to_not_convert": names})
    assert layer(left_out, older=True, **asked).oracle == "mxfp8"


def test_modules_that_modelopt_excludes_under_another_name() -> None:
    block = {"quant_method": "modelopt", "quant_algo": "FP8", "exclude_modules": ["*experts*"]}
    config = qwen(quantization_config=block)
    assert layer(config, older=False).oracle == "unquantized"
    assert layer(config, older=True).oracle == "fp8"


def test_experts_that_constants_replace() -> None:
    config = qwen(approximate_experts={"0": [1, 2]})
    assert layer(config, older=False).moe.require_decomposed_backend
    assert not layer(config, older=True).moe.require_decomposed_backend
    assert layer(config, older=True).moe.num_experts == 128


def test_every_example_model_is_derived_by_either_release() -> None:
    for path in sorted(MODELS.glob("*.json")):
        config = json.loads(path.read_text())
        assert bool(derive_layers(config, H100, tables=OLDER)) == bool(derive_layers(config, H100))


def test_mixed_precision_in_its_own_file_alone() -> None:
    layers = {"model.layers.0.mlp.experts": {"quant_algo": "FP8"}}
    mixed = {"quant_algo": "MIXED_PRECISION", "quantized_layers": layers}
    file = {"producer": {"name": "modelopt"}, "quantization": mixed}
    assert derive_layers(qwen(), H100, hf_quant_config=file)
    with pytest.raises(CheckpointRefusedError, match=r"0\.32 knows no MIXED_PRECISION"):
        derive_layers(qwen(), H100, hf_quant_config=file, tables=OLDER)
    flat = qwen(quantization_config={"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"})
    assert derive_layers(flat, H100, hf_quant_config=file, tables=OLDER)
