"""Resolves the names in rule files: from what the files say to :class:`PlatformRules`.

Parts of one platform may stand in several files. Files of overlays come after the packaged
ones and add to them; see ``docs/rules.md`` for how each key combines.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from moe_rules.files.problems import KeyPath, Location, Problem, RuleFileError
from moe_rules.language import files as raw
from moe_rules.language import rules
from moe_rules.language.conditions import ALWAYS, All, Clause, Condition, Implied, all_of
from moe_rules.language.fact_tests import Anything
from moe_rules.language.link_oracle import OracleLinker
from moe_rules.language.parse import Parser
from moe_rules.language.parts import Part, withdraw
from moe_rules.language.requested import Requests, request
from moe_rules.language.word_files import DerivedCase
from moe_rules.language.words import Document, Words
from moe_rules.vocabulary.fact_values import FactError, FactValue, did_you_mean
from moe_rules.vocabulary.switches import SWITCHES


def link(
    platform: str,
    parts: Sequence[Part],
    vocabulary: Sequence[Document],
    contents: Iterable[bytes],
) -> rules.PlatformRules:
    """Resolve all parts of one platform. Raises RuleFileError with everything that is wrong.

    ``vocabulary`` is the file of words, and those of releases after it.
    """
    linker = _Linker(platform, parts, Words(vocabulary))
    linked_kernels = linker.kernels()
    linked_oracles = linker.oracles(linked_kernels)
    derived = linker.derived()
    requested = linker.requested(linked_oracles)
    problems = linker.problems()
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors:
        raise RuleFileError(list(dict.fromkeys(errors)))
    return rules.PlatformRules(
        platform=platform,
        facts=linker.words.facts,
        withdrawn=linker.words.withdrawn,
        derived=derived,
        oracles=linked_oracles,
        kernels=linked_kernels,
        files=tuple(part.source.file for part in parts),
        fingerprint=hashlib.sha256(b"\0".join(contents)).hexdigest()[:16],
        warnings=tuple(problem for problem in problems if problem.severity == "warning"),
        requested=requested,
    )


class _Linker:
    def __init__(self, platform: str, parts: Sequence[Part], words: Words) -> None:
        self.platform = platform
        self.parts = parts
        self.words = words
        self._problems = list(words.problems)
        self._withdrawn: dict[str, dict[str, rules.Reason]] = {}
        self._conditions = self._declared("conditions")
        self._resolving: list[str] = []
        self._resolved: dict[str, Condition] = {}
        self._parsers = {
            id(source): Parser(
                source,
                words.facts,
                words.sets,
                self.named_condition,
                lambda: list(self._conditions),
            )
            for source in (*words.sources, *(part.source for part in parts))
        }
        self._features = {
            name: (feature.kind, self._word_parser("features", name).condition(
                feature.without, ("features", name, "without")))
            for name, feature in words.features.items()
        }  # fmt: skip
        self._used_kernels: set[str] = set()

    def problems(self) -> list[Problem]:
        found = self._problems
        for parser in self._parsers.values():
            found.extend(parser.problems)
        return found

    def parser(self, part: Part) -> Parser:
        return self._parsers[id(part.source)]

    def _word_parser(self, kind: str, name: str) -> Parser:
        """The parser of the file that says what a word means."""
        return self._parsers[id(self.words.home[kind, name])]

    def _declared(self, section: str) -> dict[str, list[tuple[Part, Any]]]:
        """Entries of a section over all files, with the file of each; overlays after packaged.

        What a file withdraws is none of those before it, and what adds to it later adds to nothing.
        """
        found: dict[str, list[tuple[Part, Any]]] = {}
        gone: dict[str, rules.Reason] = {}
        for part in self.parts:
            names = getattr(part.file.withdrawn, section, {})
            reasons, problems = withdraw(part.source, ("withdrawn", section), names, found)
            self._problems += problems
            gone |= reasons
            for name, entry in getattr(part.file, section).items():
                if name in found or name not in gone or getattr(entry, "replace", True):
                    found.setdefault(name, []).append((part, entry))
        self._withdrawn[section] = {name: why for name, why in gone.items() if name not in found}
        return found

    def _check_once(self, path: KeyPath, parts: Iterable[Part]) -> None:
        """Note what stands in more than one packaged file."""
        packaged = [part for part in parts if not part.overlay]
        for part in packaged[1:]:
            first = packaged[0].source.key_at(path)
            self.parser(part).problem(
                "declared-twice", f"{path[-1]!r} is declared already at {first}", path, key=True
            )

    # Conditions -------------------------------------------------------------------------------

    def named_condition(self, name: str) -> Condition | None:
        if name in self._resolved:
            return self._resolved[name]
        if name not in self._conditions:
            return None
        part, entry = self._conditions[name][-1]
        if name in self._resolving:
            cycle = " -> ".join([*self._resolving, name])
            self.parser(part).problem(
                "cyclic-condition",
                f"condition refers to itself: {cycle}",
                ("conditions", name),
                key=True,
            )
            return ALWAYS
        self._resolving.append(name)
        condition = self.parser(part).condition(entry, ("conditions", name))
        self._resolving.pop()
        self._resolved[name] = condition
        return condition

    # Kernels ----------------------------------------------------------------------------------

    def kernels(self) -> dict[str, rules.Kernel]:
        self._kernel_tables = self._declared("kernels")
        for name, declared in self._kernel_tables.items():
            self._check_once(("kernels", name), (part for part, _ in declared))
        for name, declared in self._conditions.items():
            self._check_once(("conditions", name), (part for part, _ in declared))
            self.named_condition(name)
        return {name: self._kernel(name) for name in self._kernel_tables}

    def _kernel(self, name: str) -> rules.Kernel:
        declared = self._kernel_tables[name]
        replaced = [i for i, (_, table) in enumerate(declared) if table.replace]
        declared = declared[replaced[-1] if replaced else 0 :]
        part, table = declared[0]
        inherited = self._inherited(name, part, table, [name])
        condition = self._kernel_condition(name, inherited)
        for more_part, more in declared[1:]:
            condition = all_of(condition, self._added(name, more_part, more))
        # What gives the kernel another class is where a reader has to look.
        owner, named = next((d for d in reversed(declared) if d[1].class_), declared[0])
        return rules.Kernel(
            name=name,
            class_name=named.class_ or name,
            condition=condition,
            location=owner.source.key_at(("kernels", name)),
        )

    def _inherited(
        self, name: str, part: Part, table: raw.KernelTable, chain: list[str]
    ) -> dict[str, tuple[Part, str, Any]]:
        """Each key of a kernel with the file and the entry that say it."""
        keys: dict[str, tuple[Part, str, Any]] = {}
        if table.extends is not None:
            base = table.extends
            path = ("kernels", name, "extends")
            if base in chain:
                cycle = " -> ".join([*chain, base])
                self.parser(part).problem("cyclic-extends", f"entry extends itself: {cycle}", path)
            elif base not in self._kernel_tables:
                hint = did_you_mean(base, self._kernel_tables)
                self.parser(part).problem(
                    "unknown-kernel", f"there is no kernel {base!r}{hint}", path
                )
            else:
                base_part, base_table = self._base(base, part)
                keys = self._inherited(base, base_part, base_table, [*chain, base])
                self._used_kernels.add(base)
        for key in ("kind", "supports", "schemes", "requires"):
            value = getattr(table, key)
            if value is not None:
                keys[key] = (part, name, value)
        return keys

    def _base(self, name: str, part: Part) -> tuple[Part, raw.KernelTable]:
        """The entry that another one extends in a file: as it was replaced before, if it was."""
        declared: list[tuple[Part, raw.KernelTable]] = self._kernel_tables[name]
        order = [id(one) for one in self.parts]
        before = order[: order.index(id(part)) + 1] if part.overlay else ()
        replaced = [(p, table) for p, table in declared if table.replace and id(p) in before]
        return replaced[-1] if replaced else declared[0]

    def _kernel_condition(self, name: str, keys: dict[str, tuple[Part, str, Any]]) -> Condition:
        kind = keys["kind"][2] if "kind" in keys else "modular"
        conditions: list[Condition] = []
        if "requires" in keys:
            part, owner, value = keys["requires"]
            conditions.append(self.parser(part).condition(value, ("kernels", owner, "requires")))
        if "schemes" in keys:
            part, owner, value = keys["schemes"]
            conditions.append(self._schemes(part, owner, value))
        supported = set(keys["supports"][2]) if "supports" in keys else set()
        if "supports" in keys:
            part, owner, value = keys["supports"]
            self._check_features(part, owner, value)
        for feature, (only_kind, without) in self._features.items():
            if only_kind in (None, kind):
                test = _asked(without) if feature in supported else without
                conditions.append(_at(test, self._kernel_place(name, keys)))
        return all_of(*conditions)

    def _kernel_place(self, name: str, keys: dict[str, tuple[Part, str, Any]]) -> Location:
        if "supports" in keys:
            part, owner, _ = keys["supports"]
            return part.source.key_at(("kernels", owner, "supports"))
        part, _ = self._kernel_tables[name][0]
        return part.source.key_at(("kernels", name))

    def _check_features(self, part: Part, owner: str, features: list[str]) -> None:
        for i, feature in enumerate(features):
            if feature not in self._features:
                hint = did_you_mean(feature, self._features)
                self.parser(part).problem(
                    "unknown-feature",
                    f"there is no feature {feature!r}{hint} (known: {', '.join(self._features)})",
                    ("kernels", owner, "supports", i),
                )

    def _schemes(self, part: Part, owner: str, tables: list[raw.SchemeTable]) -> Condition:
        listed = [table.model_dump(exclude_none=True) for table in tables]
        for item, table in zip(listed, tables, strict=True):
            item.setdefault("weight", table.weight)
            item.setdefault("activation", table.activation)
        return self.parser(part).schemes(listed, ("kernels", owner, "schemes"))

    def _added(self, name: str, part: Part, table: raw.KernelTable) -> Condition:
        """What an overlay adds to a packaged kernel: more requirements, besides another class."""
        conditions = [self.parser(part).condition(table.requires, ("kernels", name, "requires"))]
        if table.schemes is not None:
            conditions.append(self._schemes(part, name, table.schemes))
        for key in ("extends", "kind", "supports"):
            if getattr(table, key) is not None:
                self.parser(part).problem(
                    "overlay-key",
                    f"an overlay that adds to {name!r} cannot set {key!r}; "
                    "use 'replace: true' to declare the kernel anew",
                    ("kernels", name, key),
                    key=True,
                )
        return all_of(*conditions)

    # Derived facts ----------------------------------------------------------------------------

    def derived(self) -> tuple[rules.Derived, ...]:
        later = list(self.words.derived)
        found = []
        for name, table in self.words.derived.items():
            cases = tuple(
                self._derived_case(name, i, case, later) for i, case in enumerate(table.cases)
            )
            found.append(rules.Derived(self.words.facts[name], cases))
            later.remove(name)
        return tuple(found)

    def _derived_case(
        self, name: str, i: int, case: DerivedCase, later: Sequence[str]
    ) -> tuple[Condition, FactValue | rules.ValueOf]:
        """A case of a derived fact, which may ask none that is derived ``later``, or itself."""
        path: KeyPath = ("derived", name, "cases", i)
        parser = self._word_parser("derived", name)
        fact = self.words.facts[name]
        when = parser.condition(case.when, (*path, "when"))
        value: FactValue | rules.ValueOf
        if case.value_of is None:
            value = parser.value(fact, case.value, (*path, "value"))
        else:
            value = parser.value_of(fact, case.value_of, (*path, "value_of"))
        for other in (*when.fact_names(), case.value_of):
            if other in later:
                parser.problem(
                    "later-fact", f"{name!r} cannot follow from {other!r}: that comes later", path
                )
        return when, value

    # Oracles ----------------------------------------------------------------------------------

    def oracles(self, kernels: Mapping[str, rules.Kernel]) -> dict[str, rules.Oracle]:
        declared = self._declared("oracles")
        linked = {}
        for name, entries in declared.items():
            for key in raw.OracleTable.model_fields:
                parts = [part for part, table in entries if key in table.model_fields_set]
                self._check_once(("oracles", name, key), parts)
            chain = self._oracle_chain(name, declared)
            oracle_linker = OracleLinker(
                chain, declared, kernels, self._withdrawn["kernels"], self.parser
            )
            linked[name] = oracle_linker.link()
            self._used_kernels |= oracle_linker.used_kernels
        for name, entries in self._kernel_tables.items():
            if name not in self._used_kernels:
                part, _ = entries[0]
                place = part.source.key_at(("kernels", name))
                self.parser(part).problems.append(
                    Problem("unused-kernel", f"no backend uses {name!r}", place, "warning")
                )
        return linked

    def requested(self, oracles: Mapping[str, rules.Oracle]) -> Requests:
        """Requests of all files; of equal ones the last file's."""
        found = {}
        for part in self.parts:
            for key, backend in part.file.requested.items():
                path = ("requested", key)
                try:
                    one = request(key, backend, oracles, part.source.key_at(path))
                except FactError as error:
                    self.parser(part).problem("unknown-oracle", str(error), path, key=True)
                else:
                    found[one.role, one.oracle] = one
        return found

    def _oracle_chain(
        self, name: str, declared: Mapping[str, list[tuple[Part, raw.OracleTable]]]
    ) -> list[str]:
        """The oracle and those that it extends, the farthest first."""
        chain = [name]
        while True:
            said = [(part, table.extends) for part, table in declared[chain[0]] if table.extends]
            path = ("oracles", chain[0], "extends")
            if not said:
                return chain
            part, base = said[-1]
            if base in chain:
                self.parser(part).problem("cyclic-extends", f"{base!r} extends itself", path)
                return chain
            if base not in declared:
                self.parser(part).problem(
                    "unknown-oracle", f"{self.platform} has no oracle {base!r}", path
                )
                return chain
            chain.insert(0, base)


def _asked(condition: Condition) -> Condition:
    """The switches of a condition, with any value: the reference reads them of every kernel."""
    switches = (clause for clause in condition.clauses() if clause.fact in SWITCHES)
    return all_of(*(switch.replaced(test=Anything()) for switch in switches))


def _at(condition: Condition, place: Location) -> Condition:
    """A feature's condition, said to stand where the kernel lists its features."""
    if isinstance(condition, Clause):
        return Implied(condition.fact, condition.test, condition.code, place)
    if isinstance(condition, All):
        return All(tuple(_at(part, place) for part in condition.parts))
    return condition
