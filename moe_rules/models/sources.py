"""Where a fact comes from, as the model tables write it, and how its value is found.

A source is one of

* a number, a boolean or null: that value;
* a string: the configuration field of that name (a dotted path), or ``platform.*``,
  ``deployment.*`` or ``layer`` of the context;
* ``{literal: text}``: that text;
* ``{field: name, default: value, per_layer: true, one_of: [...], largest: name, where: {...}}``: a
  field with a default for where it is absent (null stays null) and, if it holds a list, one entry
  for each decoder layer; with ``one_of``, whether the value is one of these (null if there is
  none); with ``largest``, the largest number that a list of mappings holds under that name; with
  ``where``, null instead of a value for which this does not hold;
* ``{multiply: [source, source]}``;
* ``{if: source, then: source, else: source}``: by whether the first is neither null, false nor 0;
* ``{index_below: source}``: whether the decoder layer's index is below that number;
* a list of cases, each a source or ``{when: conditions, is: source}``: the first whose conditions
  hold; a case that is a plain source is taken unless its value is null.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moe_rules.models.conditions import Context, holds, passes
from moe_rules.models.typed import Kind, anything, integer, read


def value_of(source: Any, context: Context, kind: Kind = anything) -> Any:
    """The value of a source in a context; None if the checkpoint does not say.

    Raises ConfigValueError for a value of the checkpoint that is not of the kind.
    """
    if isinstance(source, str):
        return _read(source, context[source], context, kind)
    if isinstance(source, list):
        return _first_case(source, context, kind)
    if not isinstance(source, Mapping):
        return source
    if "literal" in source:
        return source["literal"]
    if "multiply" in source:
        left, right = (value_of(factor, context, integer) for factor in source["multiply"])
        return None if left is None or right is None else left * right
    if "if" in source:
        chosen = source["then" if value_of(source["if"], context) else "else"]
        return value_of(chosen, context, kind)
    if "index_below" in source:
        return context["layer.index"] < (value_of(source["index_below"], context, integer) or 0)
    return _field(source, context, kind)


def _read(path: str, value: Any, context: Context, kind: Kind) -> Any:
    return None if value is None else read(kind, value, context.where(path))


def _first_case(cases: list[Any], context: Context, kind: Kind) -> Any:
    for case in cases:
        if isinstance(case, Mapping) and "is" in case:
            if holds(case.get("when", {}), context):
                return value_of(case["is"], context, kind)
        else:
            value = value_of(case, context, kind)
            if value is not None:
                return value
    return None


def _field(source: Mapping[str, Any], context: Context, kind: Kind) -> Any:
    path = source["field"]
    if "default" in source and not context.has(path):
        return source["default"]
    value = context[path]
    if source.get("per_layer") and isinstance(value, list):
        layer = context["layer.index"]
        value = value[layer] if layer < len(value) else None
        path = f"{path}.{layer}"
    if source.get("largest"):
        return _largest(value, source["largest"], kind, context.where(path))
    if value is not None and "one_of" in source:
        return value in source["one_of"]
    value = _read(path, value, context, kind)
    accepted = "where" not in source or passes(value, source["where"], context.where(path))
    return value if accepted else None


def _largest(entries: Any, name: str, kind: Kind, where: str) -> Any:
    """The largest number that a list of mappings holds under a name; None if it holds none."""
    found = [
        read(kind, entry[name], f"{where}.{index}.{name}")
        for index, entry in enumerate(entries if isinstance(entries, list) else ())
        if isinstance(entry, Mapping) and entry.get(name) is not None
    ]
    return max(found, default=None)
