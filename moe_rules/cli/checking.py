"""Checks files of rules: each for itself, and together with the files it belongs to.

A folder with a ``vocabulary.yaml`` is a rule set; files below it are checked as parts of it. Any
other platform file is an overlay, and is checked together with the packaged files of its
platform. What kind of file it is, its top-level keys say.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from moe_rules.analysis.policies import PoliciesFile, policies_of
from moe_rules.analysis.worlds import WorldsFile, worlds_of
from moe_rules.cli.rule_paths import (
    existing,
    overlay_of,
    rule_set_of,
    shown,
    yaml_files,
)
from moe_rules.drift.citations import SourcesFile
from moe_rules.files.packaged import packaged_rules
from moe_rules.files.problems import Location, Problem, RuleFileError
from moe_rules.files.yaml_source import YamlSource, read_yaml
from moe_rules.language.examples import ExamplesFile, examples_of
from moe_rules.language.files import PlatformFile, VocabularyFile
from moe_rules.language.link import link
from moe_rules.language.parts import Part
from moe_rules.language.requested import requested_problems
from moe_rules.language.ruleset import PLATFORMS, VOCABULARY, platform_files
from moe_rules.language.validate import validate
from moe_rules.machines.machine import record_problems
from moe_rules.machines.schema import MachinesFile
from moe_rules.models.errors import TableError
from moe_rules.models.quantization_schema import QuantizationFile
from moe_rules.models.schema import ArchitecturesFile, MistralFile, RegistryFile
from moe_rules.models.tables import load_tables
from moe_rules.reporting import Report

_MODELS: dict[str, type[BaseModel]] = {
    "platform": PlatformFile,
    "vocabulary": VocabularyFile,
    "machines": MachinesFile,
    "architectures": ArchitecturesFile,
    "quantization": QuantizationFile,
    "registry": RegistryFile,
    "mistral": MistralFile,
    "worlds": WorldsFile,
    "examples": ExamplesFile,
    "policies": PoliciesFile,
    "sources": SourcesFile,
}
_KEYS = {
    "package": "sources",
    "machines": "machines",
    "latent_attention": "mistral",
    "architectures": "architectures",
    "methods": "quantization",
    "without_moe_layers": "registry",
    "sets": "vocabulary",
    "features": "vocabulary",
    "derived": "vocabulary",
    "impossible": "worlds",
    "examples": "examples",
    "policies": "policies",
}


def check(paths: Iterable[Path]) -> Report:
    """Check files, folders and packaged overlays by name; the packaged rules if there are none.

    Raises UserError for a path that does not exist or has no YAML file.
    """
    checker = _Checker()
    for path in [existing(path) for path in paths] or [packaged_rules()]:
        checker.check(path)
    checker.against_schemas()
    return Report.of(checker.problems, list(checker.documents))


def kind_of(data: object) -> str:
    """Which kind of file this is: a key of the schemas, or "machine" for a recorded one."""
    if not isinstance(data, Mapping):
        return "platform"
    found = next((kind for key, kind in _KEYS.items() if key in data), None)
    if found is not None:
        return found
    is_record = isinstance(data.get("platform"), Mapping) or {"name", "software"} & set(data)
    return "machine" if is_record else "platform"


class _Checker:
    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.documents: dict[str, tuple[YamlSource, Any] | None] = {}

    def check(self, path: Path) -> None:
        files = yaml_files(path)
        root = rule_set_of(path)
        overlays: dict[Path, list[Path]] = {}
        platforms: set[str] = set()
        for file in files:
            document = self.document(file)
            overlay = overlay_of(file, path, root)
            if overlay is not None:
                overlays.setdefault(overlay, []).append(file)
            elif document is not None and isinstance(document[1], PlatformFile):
                platforms.add(document[1].platform)
            elif document is not None and isinstance(document[1], VocabularyFile):
                platforms.update(PLATFORMS)
            elif document is not None and isinstance(document[1], QuantizationFile):
                self.model_tables(file.parent)
        base = root or packaged_rules()
        for platform in sorted(platforms):
            self.platform(platform, base, [])
        for overlay_files in overlays.values():
            self.overlay(base, overlay_files)

    # One document ------------------------------------------------------------------------------

    def document(self, file: Path) -> tuple[YamlSource, Any] | None:
        """The file and its model; None if it is wrong in itself, which is noted once."""
        name = shown(file)
        if name not in self.documents:
            self.documents[name] = None
            try:
                source = read_yaml(file, display=name)
                self.documents[name] = (source, _validated(source))
            except RuleFileError as error:
                self.problems.extend(error.problems)
        return self.documents[name]

    def model_tables(self, folder: Path) -> None:
        """What the model tables say about each other, if each is right in itself."""
        if self.document(folder / "architectures.yaml") is None:
            return
        try:
            load_tables(folder)
        except TableError as error:
            self.problems.append(Problem("bad-table", str(error), Location(shown(folder))))

    # Documents together ------------------------------------------------------------------------

    def overlay(self, base: Path, files: list[Path]) -> None:
        documents = [document for file in files if (document := self.document(file)) is not None]
        parts = [Part(s, f, overlay=True) for s, f in documents if isinstance(f, PlatformFile)]
        for platform in sorted({part.file.platform for part in parts}):
            self.platform(platform, base, [p for p in parts if p.file.platform == platform])

    def platform(self, platform: str, base: Path, overlay: list[Part]) -> None:
        """Link the files of a platform; left alone where one of them is wrong in itself."""
        documents = [self.document(file) for file in platform_files(platform, base)]
        words = self.document(base / VOCABULARY)
        if words is None:
            return
        parts: list[Part] = []
        for document in documents:
            if document is None:
                return
            source, file = document
            if not isinstance(file, PlatformFile) or file.platform != platform:
                message = f"this is a file of platform {platform!r} by its place"
                self.problems.append(Problem("wrong-platform", message, source.at(("platform",))))
                return
            parts.append(Part(source, file))
        try:
            rules = link(platform, [*parts, *overlay], [words], [])
        except RuleFileError as error:
            self.problems.extend(error.problems)
            return
        self.problems.extend(rules.warnings)
        self.problems.extend(requested_problems(rules.requested, rules.oracles))

    def against_schemas(self) -> None:
        """Hold files in which nothing else is wrong against the JSON Schema of their kind.

        Last, because names that are resolved say more about what is wrong than a schema does.
        """
        wrong = {p.location.file for p in self.problems if p.severity == "error"}
        for name, document in self.documents.items():
            if document is not None and name not in wrong:
                source, _ = document
                self.problems.extend(schema_problems(kind_of(source.data), source))


def _validated(source: YamlSource) -> Any:
    """The model of a document. Raises RuleFileError."""
    kind = kind_of(source.data)
    if kind == "machine":
        problems = record_problems(source)
        if problems:
            raise RuleFileError(problems)
        return source.data
    if kind == "examples":
        examples_of(source)
    if kind == "policies":
        policies_of(source)
    document = validate(_MODELS[kind], source)
    if kind == "worlds":
        worlds_of(source)
    return document


def schema_problems(kind: str, source: YamlSource) -> list[Problem]:
    """Where a document does not fit the JSON Schema of its kind, if that has one."""
    from jsonschema.exceptions import best_match

    if kind not in _MODELS:
        return []
    problems = []
    for error in _schema_errors(kind)(source.data):
        deepest = best_match([error]) or error
        place = source.at(tuple(deepest.absolute_path))
        problems.append(Problem("schema", f"against {kind}.schema.json: {deepest.message}", place))
    return problems


@functools.cache
def _schema_errors(kind: str) -> Callable[[Any], Iterable[Any]]:
    from jsonschema import Draft7Validator

    from moe_rules.json_schemas import schema_for

    return Draft7Validator(schema_for(kind)).iter_errors
