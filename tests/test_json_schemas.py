"""The committed JSON Schemas are those that are generated, and the packaged files satisfy them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest

import moe_rules
from moe_rules.files.packaged import packaged_rules
from moe_rules.files.yaml_source import read_yaml
from moe_rules.json_schemas import DRAFT, schema_for, schemas

COMMITTED = Path(moe_rules.__file__).parents[1] / "schemas"
MODELINE = re.compile(r"^# yaml-language-server: \$schema=(\S+)$")
FILES = sorted(packaged_rules().rglob("*.yaml"))


@pytest.mark.parametrize("name", schemas())
def test_committed_schema_is_in_step(name: str) -> None:
    committed = json.loads((COMMITTED / name).read_text())
    assert committed == schemas()[name], "run `make schemas`"
    assert committed["$schema"] == DRAFT
    jsonschema.Draft7Validator.check_schema(committed)


def test_no_schema_is_left_over() -> None:
    assert {path.name for path in COMMITTED.iterdir()} == set(schemas())


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(packaged_rules())))
def test_packaged_file_satisfies_the_schema_it_names(path: Path) -> None:
    match = MODELINE.match(path.read_text().splitlines()[0])
    assert match is not None, "the first line names the schema"
    schema = (path.parent / match[1]).resolve()
    assert schema.parent.name == "schemas"
    validator = jsonschema.Draft7Validator(schemas()[schema.name])
    assert [error.message for error in validator.iter_errors(read_yaml(path).data)] == []


@pytest.mark.parametrize(
    "change",
    [
        {"oracles": {"fp8": {"prioritie": []}}},
        {"kernels": {"X": {"requires": {"num_expert": 1}}}},
        {"kernels": {"X": {"requires": {"activation": "sliu"}}}},
        {"kernels": {"X": {"requires": {"num_experts": "many"}}}},
        {"kernels": {"X": {"requires": {"ep_size": 0}}}},
        {
            "oracles": {
                "fp8": {"backends": {"X": {"kernels": ["Y"], "assume": {"num_experts": ">=8"}}}}
            }
        },
        {"kernels": {"X": {"requires": {"use_ep": {"multiple_of": 2}}}}},
        {"platform": "cudda"},
    ],
)
def test_schema_refuses_what_the_loader_refuses(change: dict[str, object]) -> None:
    validator = jsonschema.Draft7Validator(schema_for("platform"))
    assert not validator.is_valid({"platform": "cuda", **change})


def test_unknown_schema_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'platform'"):
        schema_for("platfrom")
