"""The vocabulary: what the files of a rule set say together, each word with the file it stands in.

The first file is the rule set's own; those of releases say what is otherwise there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moe_rules.files.problems import Problem
from moe_rules.files.yaml_source import YamlSource
from moe_rules.language import word_files as raw
from moe_rules.language.parts import withdraw
from moe_rules.language.rules import Reason
from moe_rules.vocabulary.fact_values import Fact
from moe_rules.vocabulary.facts import FACTS

Document = tuple[YamlSource, raw.VocabularyFile]
"""A file of words as it was read."""


def _derived_facts(derived: Mapping[str, raw.DerivedFact]) -> dict[str, Fact]:
    """Declarations of the facts that a vocabulary derives."""
    return {
        name: Fact(
            name,
            "derived",
            table.type,
            table.meaning,
            tuple(value for value in table.values if value != "none"),
            nullable="none" in table.values,
        )
        for name, table in derived.items()
    }


class Words:
    """The words that stand once every file was read, by kind and name.

    ``withdrawn`` are the facts that do not; ``home`` has the file that says what a word means.
    """

    def __init__(self, documents: Sequence[Document]) -> None:
        self.sources = [source for source, _ in documents]
        self.sets: dict[str, list[Any]] = {}
        self.features: dict[str, raw.Feature] = {}
        self.derived: dict[str, raw.DerivedFact] = {}
        self.home: dict[tuple[str, str], YamlSource] = {}
        self.withdrawn: dict[str, Reason] = {}
        self.problems: list[Problem] = []
        supplied = dict(FACTS)
        kinds: dict[str, dict[str, Any]] = {
            "facts": supplied,
            "sets": self.sets,
            "features": self.features,
            "derived": self.derived,
        }
        for source, file in documents:
            for kind, words in kinds.items():
                names = getattr(file.withdrawn, kind)
                reasons, problems = withdraw(source, ("withdrawn", kind), names, words)
                self.problems += problems
                self.withdrawn |= reasons if kind == "facts" else {}
                said = getattr(file, kind, {})
                words.update(said)
                self.home.update({(kind, name): source for name in said})
        self.facts: dict[str, Fact] = {**supplied, **_derived_facts(self.derived)}
        for name in self.derived.keys() & FACTS.keys():
            self._problem("declared-twice", f"the fact {name!r} is supplied", ("derived", name))
        for name, values in self.sets.items():
            nested = [value for value in values if str(value).startswith("$")]
            for value in nested:
                self._problem("nested-set", f"{value!r}: a set has no other sets", ("sets", name))
            self.sets[name] = [value for value in values if value not in nested]

    def _problem(self, code: str, message: str, path: tuple[str, str]) -> None:
        self.problems.append(Problem(code, message, self.home[path].key_at(path)))
