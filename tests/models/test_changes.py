"""Fields of default configurations that are absent, or null: as vLLM 0.33.0 reads them.

``coverage/changes.jsonl.gz`` was recorded by running vLLM's model classes on the configurations of
``coverage/defaults.jsonl.gz`` with one field taken out or null. Left out are 52 of 412: those
in which we ask the user for a size that vLLM's classes hand on unread, and those in which
transformers' class refuses a null that we take as vLLM's class would.
"""

from __future__ import annotations

import copy
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from moe_rules.models import CheckpointRefusedError, UnknownModelError, derive_layers, load_tables
from moe_rules.models.hf_config import HfConfig, text_config
from tests.models.checkpoints import H100

DATA = Path(__file__).parent / "coverage"


def lines(name: str) -> list[dict[str, Any]]:
    data = (DATA / f"{name}.jsonl.gz").read_bytes()
    return [json.loads(line) for line in gzip.decompress(data).splitlines()]


BASES = {case["name"]: case["config"] for case in lines("defaults")}
CHANGES = lines("changes")


def changed(config: dict[str, Any], field: str, change: str) -> dict[str, Any]:
    """The configuration with a field of its language model absent, or null."""
    config = copy.deepcopy(config)
    classes = load_tables().architectures["config_classes"]
    level: Any = text_config(HfConfig(config, classes), classes).fields
    level = _same(config, level)
    *outer, last = field.split(".")
    for part in outer:
        level = level.get(part) or {}
    if change == "absent":
        level.pop(last, None)
    else:
        level[last] = None
    return config


def _same(config: dict[str, Any], fields: Any) -> dict[str, Any]:
    """The part of a configuration that has these fields, which may be a copy of it."""
    for name in ("text_config", "llm_config"):
        inner = config.get(name)
        if isinstance(inner, dict) and inner.keys() <= fields.keys():
            return inner
    return config


@pytest.mark.parametrize(
    "case", CHANGES, ids=[f"{one['base']}: {one['field']} {one['change']}" for one in CHANGES]
)
def test_a_field_that_is_absent_or_null(case: dict[str, Any]) -> None:
    config = changed(BASES[case["base"]], case["field"], case["change"])
    if case.get("refused"):
        with pytest.raises((CheckpointRefusedError, UnknownModelError)):
            derive_layers(config, H100)
        return
    theirs = {index: kind["facts"] for kind in case["kinds"] for index in kind["layers"]}
    ours = {
        index: {name: getattr(layer.moe, name) for name in theirs[index]}
        for layer in derive_layers(config, H100)
        for index in layer.layers
    }
    assert ours == theirs
