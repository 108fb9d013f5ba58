"""How ModelOpt's blocks are read, flat in config.json and nested in hf_quant_config.json."""

from __future__ import annotations

from typing import Any

import pytest

from moe_rules.models import CheckpointRefusedError, derive_layers
from tests.models.checkpoints import H100, qwen3

FIRST, SECOND = "model.layers.1.mlp.experts", "model.layers.2.mlp.experts"
MODELOPT = {"quant_method": "modelopt", "quant_algo": "NVFP4"}
MIXED = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}
BY_LAYER = {FIRST: {"quant_algo": "FP8"}, SECOND: {"quant_algo": "NVFP4"}}


def nested(algorithm: str, **fields: Any) -> dict[str, Any]:
    inner = {"quant_algo": algorithm, "kv_cache_quant_algo": None, "group_size": 16, **fields}
    return {"producer": {"name": "modelopt"}, "quantization": inner}


def oracles(block: dict[str, Any] | None, file: dict[str, Any] | None = None) -> list[str | None]:
    layers = derive_layers(qwen3(block), H100, hf_quant_config=file)
    return [layer.oracle for _, layer in sorted((i, one) for one in layers for i in one.layers)]


@pytest.mark.parametrize(
    ("block", "left_out"),
    [
        ({**MODELOPT, "ignore": [FIRST], "exclude_modules": [SECOND]}, 1),
        ({**MODELOPT, "exclude_modules": [SECOND]}, 2),
        ({**MODELOPT, "ignore": [], "exclude_modules": [SECOND]}, None),
        ({**MODELOPT, "ignored_layers": [FIRST]}, None),
        ({"quant_method": "mxfp8", "ignored_layers": [FIRST], "ignore": [SECOND]}, 1),
        ({"quant_method": "mxfp8", "quant_algo": "MXFP8", "ignored_layers": [FIRST]}, None),
        ({**nested("FP8", exclude_modules=[FIRST]), "ignore": [SECOND]}, 1),
        ({**nested("FP8"), "ignore": [SECOND]}, None),
    ],
)
def test_the_first_list_that_is_there_leaves_modules_out(
    block: dict[str, Any], left_out: int | None
) -> None:
    found = oracles(block)
    assert [i for i, oracle in enumerate(found) if oracle == "unquantized"] == (
        [] if left_out is None else [left_out]
    )


@pytest.mark.parametrize(
    "block", [{**MODELOPT, "ignore": None}, nested("FP8", exclude_modules=None)]
)
def test_no_list_may_be_null(block: dict[str, Any]) -> None:
    with pytest.raises(CheckpointRefusedError, match="gives null for"):
        oracles(block)


@pytest.mark.parametrize("missing", ["group_size", "kv_cache_quant_algo", "exclude_modules"])
def test_what_a_nested_block_of_nvfp4_must_give(missing: str) -> None:
    file = nested("NVFP4", exclude_modules=[])
    assert oracles(None, file) == ["nvfp4"] * 4
    del file["quantization"][missing]
    with pytest.raises(CheckpointRefusedError, match=f"NVFP4 must give {missing}"):
        oracles(None, file)


def test_algorithms_by_layer_may_lie_in_the_file_beside_config_json() -> None:
    file = nested("MIXED_PRECISION", quantized_layers=BY_LAYER)
    expected = ["unquantized", "fp8", "nvfp4", "unquantized"]
    assert oracles({**MIXED, "quantized_layers": BY_LAYER}) == expected
    assert oracles(MIXED, file) == expected
    # In the layout of the file, config.json is not asked for them.
    with pytest.raises(CheckpointRefusedError, match=r"no hf_quant_config\.json beside it"):
        oracles(file)
    with pytest.raises(CheckpointRefusedError, match=r"producer\.name must be modelopt"):
        oracles(MIXED, {**file, "producer": None})


def test_layers_that_neither_file_has_are_refused() -> None:
    nvfp4 = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4"}}
    mixed = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}
    with pytest.raises(CheckpointRefusedError, match=r"hf_quant_config\.json has none either"):
        derive_layers(qwen3(mixed), H100, hf_quant_config=nvfp4)
