"""Checks files of rules: each for itself, and together with the files it belongs to.

A folder with a ``vocabulary.yaml`` is a rule set; files below it are checked as parts of it. Any
other platform file is an overlay, and is checked together with the packaged files of its
platform. What kind of file it is, its top-level keys say.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from moe_rules.analysis.policies import PoliciesFile
from moe_rules.analysis.worlds import WorldsFile, worlds_of
from moe_rules.cli.names_beside_rules import names_in_examples, names_in_policies
from moe_rules.cli.rule_paths import (
    below,
    existing,
    overlay_of,
    rule_set_of,
    shown,
    yaml_files,
)
from moe_rules.drift.citations import SourcesFile
from moe_rules.files.packaged import packaged_rules
from moe_rules.files.problems import Problem, RuleFileError
from moe_rules.files.releases import MODELS, release_of
from moe_rules.files.validate import validate
from moe_rules.files.yaml_source import YamlSource, read_yaml
from moe_rules.language.examples import ExamplesFile, examples_of
from moe_rules.language.files import PlatformFile
from moe_rules.language.kinds import kind_of, misplaced
from moe_rules.language.link import link
from moe_rules.language.parts import Part
from moe_rules.language.reading import displaced, vocabulary
from moe_rules.language.requested import requested_problems
from moe_rules.language.ruleset import (
    VOCABULARY,
    load_platform,
    platform_files,
    rule_files,
    shared_files,
    vocabulary_files,
)
from moe_rules.language.word_files import ReleasesFile, VocabularyFile
from moe_rules.language.words import Words
from moe_rules.machines.machine import record_problems
from moe_rules.machines.schema import MachinesFile
from moe_rules.models.quantization_schema import QuantizationFile
from moe_rules.models.schema import TableFile, part_of
from moe_rules.models.table_files import SHAPES
from moe_rules.models.tables import load_tables
from moe_rules.reporting import Report
from moe_rules.vocabulary.table_names import PLATFORMS

_MODELS: dict[str, type[BaseModel]] = {
    "platform": PlatformFile,
    "vocabulary": VocabularyFile,
    "releases": ReleasesFile,
    "machines": MachinesFile,
    **SHAPES,
    "worlds": WorldsFile,
    "examples": ExamplesFile,
    "policies": PoliciesFile,
    "sources": SourcesFile,
}

_NAMES_IN = {ExamplesFile: names_in_examples, PoliciesFile: names_in_policies}
"""What finds wrong names in a kind of file beside rules."""


def _read_by_platforms(root: Path) -> frozenset[Path]:
    """The rule files of a rule set that a platform reads."""
    own = (file for name in PLATFORMS for file in platform_files(name, root))
    return frozenset(file.resolve() for file in (*own, *shared_files(root)))


def check(paths: Iterable[Path], release: str | None = None) -> Report:
    """Check files, folders and packaged overlays by name; the packaged rules if there are none.

    Overlays are checked over the latest release, or another one. Raises UserError for a path that
    does not exist or has no YAML file, RuleFileError for a release that there is not.
    """
    if release is not None:
        release_of(release)
    checker = _Checker(release)
    for path in [existing(path) for path in paths] or [packaged_rules()]:
        checker.check(path)
    checker.against_schemas()
    return Report.of(checker.problems, list(checker.asked))


class _Checker:
    def __init__(self, release: str | None) -> None:
        self.release = release
        self.problems: list[Problem] = []
        self.asked: dict[str, None] = {}
        """The files that are asked about, by name; others are read as what those belong to."""
        self.documents: dict[str, tuple[YamlSource, Any] | None] = {}
        self.own_schemas: dict[str, SchemaErrors] = {}
        """Schemas of files in overlays that have words of their own, by name of the file."""

    def check(self, path: Path) -> None:
        files = yaml_files(path)
        self.asked.update(dict.fromkeys(map(shown, files)))
        root = rule_set_of(path)
        read = None if root is None else _read_by_platforms(root)
        overlays: dict[Path, list[Path]] = {}
        platforms: set[str] = set()
        asked = path if path.is_dir() else path.parent
        beside: dict[Path | None, list[YamlSource]] = {}
        for file in files:
            document = self.document(file)
            if document is not None and isinstance(document[1], tuple(_NAMES_IN)):
                beside.setdefault(overlay_of(file, asked, root), []).append(document[0])
            overlay = overlay_of(file, path, root)
            if overlay is not None:
                overlays.setdefault(overlay, []).append(file)
            elif document is not None and isinstance(document[1], PlatformFile):
                platforms.update(document[1].platforms)
                if read is not None and file.resolve() not in read:
                    message = (
                        "no platform reads this file: rules of a rule set lie in PLATFORM.yaml, "
                        "right below PLATFORM/ or right below shared/"
                    )
                    self.problems.append(Problem("misplaced-file", message, document[0].at(())))
            elif document is not None and isinstance(document[1], VocabularyFile):
                platforms.update(PLATFORMS)
            elif document is not None and isinstance(document[1], QuantizationFile):
                self.model_tables(file.parent, ())
        base = root or packaged_rules()
        for platform in sorted(platforms):
            self.platform(platform, base, [], [])
        try:
            lower = {one: below(one, base, self.release) for one in (*overlays, *beside) if one}
        except RuleFileError as error:  # of the list of releases
            self.problems.extend(error.problems)
            return
        for overlay, overlay_files in overlays.items():
            self.overlay(base, [*lower[overlay], overlay], overlay_files)
        for own, sources in beside.items():
            self.names(base, () if own is None else (*lower[own], own), sources)

    # One document ------------------------------------------------------------------------------

    def document(self, file: Path) -> tuple[YamlSource, Any] | None:
        """The file and its model; None if it is wrong in itself, which is noted once."""
        name = shown(file)
        if name not in self.documents:
            self.documents[name] = None
            try:
                source = read_yaml(file, display=name)
                self.documents[name] = (source, _validated(source, in_part=is_in_overlay(file)))
            except RuleFileError as error:
                self.problems.extend(error.problems)
        return self.documents[name]

    def model_tables(self, folder: Path, overlays: tuple[Path, ...]) -> None:
        """What the model tables say about each other, if each is right in itself."""
        if self.document(folder / "architectures.yaml") is None:
            return
        try:
            tables = load_tables(folder, overlays)
            tables.registry, tables.mistral  # noqa: B018 - reading them is the check
        except RuleFileError as error:
            self.problems.extend(error.problems)

    # Documents together ------------------------------------------------------------------------

    def overlay(self, base: Path, overlays: list[Path], files: list[Path]) -> None:
        """The last of some overlays, of which ``files`` are asked about, on those before it."""
        *others, own = overlays
        asked = [*(file for other in others for file in rule_files(other)), *files]
        documents = [document for file in asked if (document := self.document(file)) is not None]
        parts = [Part(s, f, overlay=True) for s, f in documents if isinstance(f, PlatformFile)]
        for file in rule_files(own) if own.is_dir() else []:
            document = self.document(file)
            if document is not None:
                self.problems.extend(misplaced(document[0]))
        changed = [one for file in files if (one := self.document(file)) is not None]
        files_changed = [file for _, file in changed if isinstance(file, PlatformFile)]
        platforms: set[str] = {platform for file in files_changed for platform in file.platforms}
        if any(isinstance(file, VocabularyFile) for _, file in changed):
            platforms.update(PLATFORMS)
        for platform in sorted(platforms):
            own_parts = [part for part in parts if platform in part.file.platforms]
            self.platform(platform, base, own_parts, overlays)
        if (own / MODELS).is_dir():
            self.model_tables(base / MODELS, tuple(overlays))

    def names(self, base: Path, overlays: tuple[Path, ...], sources: list[YamlSource]) -> None:
        """The names in files beside rules; left alone where the rules are wrong in themselves."""
        try:
            words = vocabulary(vocabulary_files(overlays, packaged=base))
            rules = {name: load_platform(name, overlays, packaged=base) for name in PLATFORMS}
        except RuleFileError:
            return
        for source in sources:
            kind = kind_of(source.data)
            self._note_words(kind, [source], words)
            try:
                self.problems.extend(_NAMES_IN[_MODELS[kind]](source, rules, words))
            except RuleFileError as error:
                self.problems.extend(error.problems)

    def _note_words(self, kind: str, sources: Iterable[YamlSource], words: Words) -> None:
        """Note by which schema files are checked, if their words are not those of a rule set."""
        files = {source.file for source in sources} - self.own_schemas.keys()
        if files and len(words.sources) > 1:
            self.own_schemas |= dict.fromkeys(files, _schema_errors(kind, words))

    def platform(
        self, platform: str, base: Path, overlay: list[Part], overlays: list[Path]
    ) -> None:
        """Link the files of a platform; left alone where one of them is wrong in itself."""
        own = [self.document(file) for file in platform_files(platform, base)]
        shared = [self.document(file) for file in shared_files(base)]
        words = [self.document(file) for file in vocabulary_files(overlays, packaged=base)]
        words_read = [document for document in words if document is not None]
        if len(words_read) < len(words):
            return
        parts: list[Part] = []
        for number, document in enumerate([*own, *shared]):
            if document is None:
                return
            source, file = document
            if not isinstance(file, PlatformFile):
                message = "this is no file of rules, and lies among them"
                self.problems.append(Problem("misplaced-file", message, source.at(())))
                return
            if number < len(own) and (wrong := [*displaced(platform, source, file)]):
                self.problems.extend(wrong)
                return
            if platform in file.platforms:
                parts.append(Part(source, file))
        try:
            rules = link(platform, [*parts, *overlay], words_read, [])
        except RuleFileError as error:
            self.problems.extend(error.problems)
            return
        known = Words(words_read)
        self._note_words("platform", [part.source for part in overlay], known)
        self._note_words("vocabulary", known.sources[1:], known)
        self.problems.extend(rules.warnings)
        self.problems.extend(requested_problems(rules.requested, rules.oracles))

    def against_schemas(self) -> None:
        """Hold the files asked about in which nothing else is wrong against their JSON Schema.

        Last, because names that are resolved say more about what is wrong than a schema does.
        """
        wrong = {p.location.file for p in self.problems if p.severity == "error"}
        for name in self.asked:
            document = self.documents[name]
            if document is not None and name not in wrong:
                source, _ = document
                own = self.own_schemas.get(name)
                self.problems.extend(schema_problems(kind_of(source.data), source, own))


def is_in_overlay(file: Path) -> bool:
    """Whether a file of model tables lies in an overlay, where it may leave sections out."""
    return file.parent.name == MODELS and not (file.parent.parent / VOCABULARY).is_file()


def _validated(source: YamlSource, *, in_part: bool) -> Any:
    """The model of a document, which may be a part of one. Raises RuleFileError."""
    kind = kind_of(source.data)
    if kind == "machine":
        problems = record_problems(source)
        if problems:
            raise RuleFileError(problems)
        return source.data
    if kind == "examples":
        examples_of(source)
    model = _MODELS[kind]
    if in_part and issubclass(model, TableFile):
        model = part_of(model)
    document = validate(model, source)
    if kind == "worlds":
        worlds_of(source)
    return document


SchemaErrors = Callable[[Any], Iterable[Any]]
"""Finds where data does not fit a JSON Schema."""


def schema_problems(
    kind: str, source: YamlSource, own: SchemaErrors | None = None
) -> list[Problem]:
    """Where a document does not fit the JSON Schema of its kind, if that has one.

    ``own`` takes the place of the packaged schema.
    """
    from jsonschema.exceptions import best_match

    if kind not in _MODELS:
        return []
    problems = []
    for error in (own or _packaged_schema_errors(kind))(source.data):
        deepest = best_match([error]) or error
        place = source.at(tuple(deepest.absolute_path))
        problems.append(Problem("schema", f"against {kind}.schema.json: {deepest.message}", place))
    return problems


def _schema_errors(kind: str, words: Words | None = None) -> SchemaErrors:
    from jsonschema import Draft7Validator

    from moe_rules.json_schemas import schema_for

    return Draft7Validator(schema_for(kind, words)).iter_errors


_packaged_schema_errors = functools.cache(_schema_errors)
