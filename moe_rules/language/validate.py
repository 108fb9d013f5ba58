"""Checks plain YAML data against a pydantic model and says where it does not fit."""

from __future__ import annotations

from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from moe_rules.files.problems import KeyPath, Problem, RuleFileError
from moe_rules.files.yaml_source import YamlSource
from moe_rules.vocabulary.fact_values import did_you_mean

ModelT = TypeVar("ModelT", bound=BaseModel)


def validate(model: type[ModelT], source: YamlSource) -> ModelT:
    """The document as a ``model``. Raises RuleFileError with every misfit and its place."""
    try:
        return model.model_validate(source.data)
    except ValidationError as error:
        problems = [_problem(model, source, item) for item in error.errors()]
        raise RuleFileError(list(dict.fromkeys(problems))) from None


def _problem(model: type[BaseModel], source: YamlSource, item: Any) -> Problem:
    path = _path(source, item["loc"])
    kind = item["type"]
    if kind == "extra_forbidden":
        name = str(item["loc"][-1])
        known = _known_keys(model, path[:-1])
        message = f"unknown key {name!r}{did_you_mean(name, known)}"
        if known:
            message += f" (known: {', '.join(known)})"
        return Problem("unknown-key", message, source.key_at(path))
    if kind == "missing":
        name = item["loc"][-1]
        return Problem("missing-key", f"key {name!r} is missing", source.at(path))
    if kind == "literal_error":
        expected = str(item["ctx"]["expected"]).replace("'", "")
        words = expected.replace(" or ", ", ").split(", ")
        hint = did_you_mean(str(item["input"]), words)
        message = f"{item['input']!r} is not allowed{hint} (one of {', '.join(words)})"
        place = source.key_at(path) if item["loc"][-1:] == ("[key]",) else source.at(path)
        return Problem("bad-value", message, place)
    if kind in ("model_type", "dict_type", "list_type"):
        wanted = "a list" if kind == "list_type" else "a mapping"
        return Problem("bad-value", f"{wanted} is expected here", source.at(path))
    message = item["msg"].removeprefix("Value error, ")
    return Problem("bad-value", message[:1].lower() + message[1:], source.at(path))


def _path(source: YamlSource, loc: tuple[str | int, ...]) -> KeyPath:
    """``loc`` without the parts that pydantic adds for unions and normalised lists."""
    path: KeyPath = ()
    for part in loc:
        if (*path, part) in source.places:
            path = (*path, part)
    return path


def _known_keys(model: Any, path: KeyPath) -> list[str]:
    """Keys that the model at ``path`` takes; empty where that cannot be said."""
    if isinstance(model, type) and issubclass(model, BaseModel):
        fields = {f.alias or name: f.annotation for name, f in model.model_fields.items()}
        if not path:
            return list(fields)
        return _known_keys(fields.get(str(path[0])), path[1:])
    options = [_known_keys(inner, _step(inner, model, path)) for inner in get_args(model)]
    return next((option for option in options if option), [])


def _step(inner: Any, outer: Any, path: KeyPath) -> KeyPath:
    is_container = getattr(outer, "__origin__", None) in (list, dict)
    return path[1:] if is_container and path else path
