"""Which kind of file a document is, by its top-level keys, and which have a place in an overlay."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from moe_rules.files.problems import Problem
from moe_rules.files.yaml_source import YamlSource

_KEYS = {
    "package": "sources",
    "releases": "releases",
    "machines": "machines",
    "latent_attention": "mistral",
    "architectures": "architectures",
    "methods": "quantization",
    "without_moe_layers": "registry",
    "draft_models": "registry",
    "sets": "vocabulary",
    "features": "vocabulary",
    "derived": "vocabulary",
    "impossible": "worlds",
    "examples": "examples",
    "policies": "policies",
    "facts": "vocabulary",
}
_IN_OVERLAYS = ("platform", "machine")
"""What may lie among the rules of an overlay: machines that were recorded there are none."""
_NAMED = {"examples": "*.test.yaml", "policies": "*.policy.yaml", "vocabulary": "words.yaml"}
"""What an overlay has in files of certain names alone."""


def kind_of(data: object) -> str:
    """Which kind of file this is: a key of the schemas, or "machine" for a recorded one."""
    if not isinstance(data, Mapping):
        return "platform"
    found = next((kind for key, kind in _KEYS.items() if key in _keys(data)), None)
    if found is not None:
        return found
    is_record = isinstance(data.get("platform"), Mapping) or {"name", "software"} & set(data)
    return "machine" if is_record else "platform"


def _keys(data: Mapping[Any, Any]) -> list[Any]:
    """The keys that tell kinds of files apart; of one that only withdraws, what it withdraws."""
    withdrawn = data.get("withdrawn")
    if set(data) == {"withdrawn"} and isinstance(withdrawn, Mapping):
        return list(withdrawn)
    return list(data)


def misplaced(source: YamlSource) -> Iterator[Problem]:
    """The finding of a file that an overlay reads as rules and that is of another kind."""
    kind = kind_of(source.data)
    if kind not in _IN_OVERLAYS:
        where = f"; in an overlay they are called {_NAMED[kind]}" if kind in _NAMED else ""
        message = f"this is no file of rules: its keys are those of {kind}{where}"
        yield Problem("misplaced-file", message, source.at(()))
