"""JSON Schemas (draft-07) of every kind of file, generated from the models and the vocabulary.

Draft-07 is what yaml-language-server reads. The files in ``schemas/`` are written by
``moe-rules schema --write schemas``; a test compares them with what is generated.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from moe_rules.analysis.policies import OUTCOME, PoliciesFile
from moe_rules.analysis.worlds import WorldsFile
from moe_rules.drift.citations import SourcesFile
from moe_rules.language.examples import ExamplesFile
from moe_rules.language.files import (
    KernelChoice,
    PlatformFile,
    RequestCase,
)
from moe_rules.language.reading import vocabulary
from moe_rules.language.word_files import ReleasesFile, VocabularyFile
from moe_rules.language.words import Words
from moe_rules.machines.schema import MachinesFile
from moe_rules.models.architectures_schema import ArchitecturesFile
from moe_rules.models.mistral_schema import MistralFile
from moe_rules.models.quantization_schema import QuantizationFile
from moe_rules.models.registry_schema import RegistryFile
from moe_rules.models.schema import part_of
from moe_rules.reporting.report.schema import ReportData
from moe_rules.vocabulary.fact_schemas import (
    KEY_NAME,
    Schema,
    plain_values,
    reference,
    stated,
)
from moe_rules.vocabulary.fact_values import Fact, did_you_mean
from moe_rules.vocabulary.facts import FACTS
from moe_rules.vocabulary.quant_keys import NAMED_KEYS

DRAFT = "http://json-schema.org/draft-07/schema#"

_REFERENCE = "#/definitions/{model}"
_COMPARISON = r"^\s*(>=|<=|>|<)\s*[0-9.]+(\s*,?\s*(>=|<=|>|<)\s*[0-9.]+)*\s*$"
_FAMILY = r"^[0-9]+\.\*$"


@functools.cache
def schemas(words: Words | None = None) -> dict[str, Schema]:
    """Every schema by the name of its file, for words other than the packaged ones if given."""
    conditions = _condition_definitions(words or vocabulary())
    return {
        "platform.schema.json": _schema(PlatformFile, "moe_rules platform file", conditions),
        "vocabulary.schema.json": _schema(VocabularyFile, "moe_rules vocabulary", conditions),
        "machines.schema.json": _schema(MachinesFile, "moe_rules named machines", {}),
        "sources.schema.json": _schema(SourcesFile, "moe_rules sources of the tables", {}),
        "worlds.schema.json": _schema(WorldsFile, "moe_rules possible deployments", conditions),
        "releases.schema.json": _schema(ReleasesFile, "moe_rules releases", {}),
        "architectures.schema.json": _schema(
            part_of(ArchitecturesFile), "moe_rules model architectures", {}
        ),
        "mistral.schema.json": _schema(part_of(MistralFile), "moe_rules fields of params.json", {}),
        "registry.schema.json": _schema(
            part_of(RegistryFile), "moe_rules names of architectures", {}
        ),
        "quantization.schema.json": _schema(
            part_of(QuantizationFile), "moe_rules quantization methods", {}
        ),
        "policies.schema.json": _schema(
            PoliciesFile,
            "moe_rules policies",
            {**conditions, **_facts_definition(), **_outcome_definitions()},
        ),
        "report.schema.json": _schema(ReportData, "moe_rules data of a report", {}),
        "examples.schema.json": _schema(ExamplesFile, "moe_rules examples", _facts_definition()),
    }


def schema_for(name: str, words: Words | None = None) -> Schema:
    """One schema of :func:`schemas`, by file name or by its first word ("platform").

    Raises ValueError with the nearest name for one that does not exist.
    """
    known = {file.partition(".")[0]: schema for file, schema in schemas(words).items()}
    word = name.partition(".")[0]
    if word not in known:
        hint = did_you_mean(word, known)
        raise ValueError(f"there is no schema {name!r}{hint} (known: {', '.join(known)})")
    return known[word]


def _schema(model: type[BaseModel], title: str, definitions: Mapping[str, Schema]) -> Schema:
    generated = model.model_json_schema(by_alias=True, ref_template=_REFERENCE)
    collected = {**generated.pop("$defs", {}), **definitions}
    for part in (KernelChoice, RequestCase) if "Condition" in definitions else ():
        inner = part.model_json_schema(by_alias=True, ref_template=_REFERENCE)
        collected |= inner.pop("$defs", {})
        collected[part.__name__] = inner
    tidy: Schema = _tidy({**generated, "definitions": collected})
    return {"$schema": DRAFT, **tidy, "title": title}


def _tidy(node: Any) -> Any:
    """Resolve our own references; drop the titles and defaults made from field names."""
    if isinstance(node, dict):
        if "x-definition" in node:
            referred = reference(node["x-definition"])
            text = node.get("description")
            # Draft-07 ignores everything beside $ref.
            return {"description": text, "allOf": [referred]} if text else referred
        return {
            key: _tidy_map(value) if key in ("properties", "definitions") else _tidy(value)
            for key, value in node.items()
            if key not in ("title", "default")
        }
    return [_tidy(item) for item in node] if isinstance(node, list) else node


def _tidy_map(node: dict[str, Any]) -> dict[str, Any]:
    return {key: _tidy(value) for key, value in node.items()}


def _condition_definitions(words: Words) -> dict[str, Schema]:
    facts = words.facts
    shared = {
        "Set": {"enum": [f"${name}" for name in words.sets]},
        "IntFact": {"enum": [fact.name for fact in facts.values() if fact.type == "int"]},
        KEY_NAME: {"enum": list(NAMED_KEYS)},
        "QuantKey": _quant_key(),
    }
    # Facts of one domain share the schema of their tests.
    tests = {_test_name(fact): _test(fact) for fact in facts.values()}
    condition: Schema = {
        "type": "object",
        "description": "Facts and the test each has to pass; all of them must hold.",
        "additionalProperties": False,
        "properties": {
            "any": {
                "type": "array",
                "items": reference("Condition"),
                "minItems": 1,
                "description": "At least one of these conditions holds.",
            },
            "all": {
                "type": "array",
                "items": reference("Condition"),
                "minItems": 1,
                "description": "All of these conditions hold.",
            },
            "not": reference("Condition"),
            "is": {
                "type": ["string", "array"],
                "items": {"type": "string"},
                "description": "Shared conditions by name; all of them hold.",
            },
            **{
                name: {
                    "description": f"{fact.meaning} ({fact.domain})",
                    "allOf": [reference(_test_name(fact))],
                }
                for name, fact in facts.items()
            },
        },
    }
    values: Schema = {
        "type": "object",
        "description": "Facts and their values; {value_of: FACT} copies another fact.",
        "additionalProperties": False,
        "properties": {name: _assumed(fact) for name, fact in facts.items()},
    }
    key_test = reference(_test_name(facts["weight_key"]))
    return {**shared, **tests, "Condition": condition, "Test": key_test, "Values": values}


def _facts_definition() -> dict[str, Schema]:
    """Facts as examples state them: a value each."""
    facts: Schema = {
        "type": "object",
        "description": "Facts and their values.",
        "additionalProperties": False,
        "properties": {name: stated(fact) for name, fact in FACTS.items()},
    }
    return {"Facts": facts, KEY_NAME: {"enum": list(NAMED_KEYS)}}


def _outcome_definitions() -> dict[str, Schema]:
    """Outcomes as policies describe them: a condition on what is selected."""
    outcome: Schema = {
        "type": "object",
        "description": "What is selected, and the test each part has to pass.",
        "additionalProperties": False,
        "properties": {
            **{
                joiner: {"type": "array", "items": reference("Outcome"), "minItems": 1}
                for joiner in ("any", "all")
            },
            "not": reference("Outcome"),
            **{
                name: {"description": fact.meaning, "allOf": [reference(_test_name(fact))]}
                for name, fact in OUTCOME.items()
            },
        },
    }
    return {"Outcome": outcome, **{_test_name(fact): _test(fact) for fact in OUTCOME.values()}}


def _test_name(fact: Fact) -> str:
    if fact.values:
        return f"Test.{fact.name}"
    least = "" if fact.least is None else f".from_{fact.least}"
    return f"Test.{fact.type}{least}{'.nullable' if fact.nullable else ''}"


def _other_tests(fact: Fact) -> list[Schema]:
    """What a test of a fact may be beside a value of it, in one word."""
    match fact.type:
        case "switch":
            return [{"const": "set"}]
        case "int" | "float":
            return [{"type": "string", "pattern": _COMPARISON}]
        case "version":
            several = {"type": "string", "pattern": f"({_FAMILY})|({_COMPARISON})"}
            return [several, {"type": "number"}]
        case "quant_key":
            return [reference("QuantKey")]
        case "enum" | "string":
            return [{"type": "string", "pattern": r"^.+\*$"}]
        case "bool":
            return []


def _test(fact: Fact) -> Schema:
    shared = [reference("Set"), {"const": "any"}]
    single = [*plain_values(fact), *_other_tests(fact), *shared]
    several: Schema = {"type": "array", "items": {"anyOf": single}, "minItems": 1}
    structured: Schema = {
        "type": "object",
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 1,
        "properties": {
            "not": reference(_test_name(fact)),
            "same_as": {"type": "string", "description": "Another fact of the same type."},
        },
    }
    if fact.type == "int":
        structured["properties"]["multiple_of"] = {
            "anyOf": [{"type": "integer", "minimum": 1}, reference("IntFact")]
        }
    return {"anyOf": [*single, several, structured]}


def _assumed(fact: Fact) -> Schema:
    copied: Schema = {
        "type": "object",
        "additionalProperties": False,
        "required": ["value_of"],
        "properties": {"value_of": {"type": "string"}},
    }
    return {"anyOf": [*stated(fact)["anyOf"], copied]}


def _quant_key() -> Schema:
    extent: Schema = {"type": ["integer", "string"]}
    scale: Schema = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "dtype": {"type": "string"},
            "static": {"type": "boolean"},
            "rows": extent,
            "columns": extent,
        },
    }
    return {
        "type": "object",
        "description": "A quantization key by its parts; parts not given may be anything.",
        "additionalProperties": False,
        "properties": {
            "dtype": {"type": ["string", "array"], "items": {"type": "string"}},
            "scale": scale,
            "scale2": {"anyOf": [scale, {"const": "none"}]},
            "symmetric": {"type": "boolean"},
        },
    }
