"""Checks plain YAML data against a pydantic model and says where it does not fit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from moe_rules.files.problems import KeyPath, Problem, RuleFileError
from moe_rules.files.yaml_source import YamlSource
from moe_rules.vocabulary.fact_values import did_you_mean

ModelT = TypeVar("ModelT", bound=BaseModel)
Errors = list[Any]
"""Errors as pydantic lists them."""


def validate(model: type[ModelT], source: YamlSource) -> ModelT:
    """The document as a ``model``. Raises RuleFileError with every misfit and its place."""
    try:
        return model.model_validate(source.data)
    except ValidationError as error:
        problems = [_problem(model, source, item) for item in _fitting(source, error.errors())]
        raise RuleFileError(list(dict.fromkeys(problems))) from None


def wrong_at(path: KeyPath, message: str) -> PydanticCustomError:
    """What the validator of a whole file raises for something inside of it."""
    return PydanticCustomError("wrong_at", "{message}", {"message": message, "path": path})


def _fitting(source: YamlSource, errors: Errors, path: KeyPath = (), at: int = 0) -> Errors:
    """The errors without those of shapes that a value has not, where it may have several.

    What pydantic says of a union is said of each of its members, which ``loc`` names. The value is
    meant to be of the one that fits best: what is a mapping there, with the fewest errors.
    """
    found: Errors = []
    keys: dict[str | int, Errors] = {}
    shapes: dict[str | int, Errors] = {}
    for error in errors:
        rest = error["loc"][at:]
        if not rest or (len(rest) == 1 and error["type"] == "missing"):
            found.append(error)
        elif (*path, rest[0]) in source.places:
            keys.setdefault(rest[0], []).append(error)
        else:
            shapes.setdefault(rest[0], []).append(error)
    for key, of_key in keys.items():
        found += _fitting(source, of_key, (*path, key), at + 1)
    if shapes:
        fits = [_fitting(source, of_shape, path, at + 1) for of_shape in shapes.values()]
        fits.sort(key=lambda some: (_is_other_shape(some, at + 1), len(some)))
        found += fits[0]
    return found


def _is_other_shape(errors: Errors, at: int) -> bool:
    """Whether what is wrong is the value itself, and not what is in it."""
    return any(len(one["loc"]) == at and one["type"] != "value_error" for one in errors)


def _problem(model: type[BaseModel], source: YamlSource, item: Any) -> Problem:
    path = _path(source, item["loc"])
    kind = item["type"]
    if kind == "wrong_at":
        return Problem("bad-value", item["msg"], source.at(item["ctx"]["path"]))
    if kind == "extra_forbidden":
        shape, name = map(str, ("", *item["loc"])[-2:])
        known = _known_keys(model, path[:-1], shape)
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
    if kind.endswith("_type") and isinstance(item["input"], dict | list):
        what = "a list" if isinstance(item["input"], list) else "a mapping"
        return Problem("bad-value", f"{what} cannot stand here", source.at(path))
    message = item["msg"].removeprefix("Value error, ")
    return Problem("bad-value", message[:1].lower() + message[1:], source.at(path))


def _path(source: YamlSource, loc: tuple[str | int, ...]) -> KeyPath:
    """``loc`` without the parts that pydantic adds for unions and normalised lists."""
    path: KeyPath = ()
    for part in loc:
        if (*path, part) in source.places:
            path = (*path, part)
    return path


def _known_keys(model: Any, path: KeyPath, shape: str) -> list[str]:
    """Keys that the model at ``path`` takes, by the name of the ``shape`` if it may be several."""
    models = list(_models_at(model, path))
    named = [one for one in models if one.__name__ == shape] or models
    return [field.alias or name for one in named[:1] for name, field in one.model_fields.items()]


def _models_at(model: Any, path: KeyPath) -> Iterator[type[BaseModel]]:
    """The models that a value at ``path`` may be of."""
    if isinstance(model, type) and issubclass(model, BaseModel):
        fields = {f.alias or name: f.annotation for name, f in model.model_fields.items()}
        if not path:
            yield model
        elif str(path[0]) in fields:
            yield from _models_at(fields[str(path[0])], path[1:])
        return
    inside = path[1:] if getattr(model, "__origin__", None) in (list, dict) else path
    for inner in get_args(model):
        yield from _models_at(inner, inside)
