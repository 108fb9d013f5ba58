"""JSON Schemas (draft-07) of facts' values, wherever a file states them or tests them."""

from __future__ import annotations

from typing import Any

from moe_rules.vocabulary.fact_values import Fact

Schema = dict[str, Any]

KEY_NAME = "QuantKeyName"
"""The definition that a schema with quantization keys has of their names."""


def reference(definition: str) -> Schema:
    """A reference to a definition of the same schema."""
    return {"$ref": f"#/definitions/{definition}"}


def plain_values(fact: Fact) -> list[Schema]:
    """What a value of a fact may be, each kind by itself; a quantization key is there by name."""
    none: list[Schema] = [{"const": "none"}] if fact.nullable else []
    match fact.type:
        case "bool":
            kinds: list[Schema] = [{"type": "boolean"}]
        case "switch":
            kinds = [{"type": "boolean"}, {"const": "unset"}]
        case "int" | "float":
            least = {} if fact.least is None else {"minimum": fact.least}
            kinds = [{"type": "integer" if fact.type == "int" else "number", **least}]
        case "version":
            kinds = [{"type": "string", "pattern": r"^[0-9]+\.[0-9]$"}]
        case "enum":
            kinds = [{"enum": list(fact.values)}]
        case "string":
            known: list[Schema] = [{"enum": list(fact.values)}] if fact.values else []
            kinds = [*known, {"type": "string"}]
        case "quant_key":
            kinds = [reference(KEY_NAME)]
    return [*kinds, *none]


def stated(fact: Fact) -> Schema:
    """The value of a fact where a file states it; a quantization key may have its parts."""
    parts: list[Schema] = [{"type": "object"}] if fact.type == "quant_key" else []
    about = f"{fact.meaning} ({fact.domain})"
    return {"description": about, "anyOf": [*plain_values(fact), *parts]}
