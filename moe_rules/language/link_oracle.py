"""Resolves one oracle's table: backends, requests, steps and adjustments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from moe_rules.files.problems import KeyPath, Problem
from moe_rules.language import files as raw
from moe_rules.language import rules
from moe_rules.language.conditions import ALWAYS, all_of
from moe_rules.language.contradictions import contradictions
from moe_rules.language.parse import Parser
from moe_rules.language.parts import Part, withdraw
from moe_rules.language.rules import AUTO
from moe_rules.vocabulary.fact_values import FactValue, did_you_mean

EntryT = TypeVar("EntryT")


class OracleLinker:
    """Resolves the entries of one oracle: the packaged one and what overlays add to it.

    ``chain`` names the oracle, after those it extends.
    """

    def __init__(
        self,
        chain: list[str],
        declared: Mapping[str, list[tuple[Part, raw.OracleTable]]],
        kernels: Mapping[str, rules.Kernel],
        withdrawn_kernels: Mapping[str, rules.Reason],
        parser: Callable[[Part], Parser],
    ) -> None:
        self.chain = chain
        self.declared = declared
        self.name = chain[-1]
        self.entries = declared[self.name]
        self.kernels = kernels
        self.withdrawn_kernels = withdrawn_kernels
        self.parser = parser
        self.used_kernels: set[str] = set()
        self.backends: dict[str, rules.Backend] = {}
        self.requests: dict[str, tuple[rules.RequestCase, ...]] = {}
        self.withdrawn: dict[str, rules.Reason] = {}
        self.gone: set[str] = set()

    def link(self) -> rules.Oracle:
        """Resolve the oracle; what is wrong is noted with the parsers."""
        for owner in self.chain:
            self.name = owner  # places are those of the oracle that says it
            for part, table in self.declared[owner]:
                self.withdrawn |= self._withdraw(part, table, "backends", self.backends)
                for backend in table.backends:
                    self.backends[backend] = self._backend(part, backend, table.backends[backend])
        self.gone = self.withdrawn.keys() - self.backends.keys()
        for owner in self.chain:
            self.name = owner
            for part, table in self.declared[owner]:
                self.withdrawn |= self._withdraw(part, table, "requests", self.requests)
                for word, cases in table.requests.items():
                    self._request(part, word, cases)
        base_part, _ = self.entries[0]
        # A user's own steps come before the packaged ones, of which the first decides.
        shortcuts = self._combined("shortcuts", self._step, before=True)
        switches = self._combined("switches", self._step, before=True)
        assume = self._combined("assume", self._assumption)
        adjust = self._combined("adjust", self._adjustment, check=contradictions)
        priority_part, priority = next(
            (part, table.priority)
            for part, table in reversed([(base_part, raw.OracleTable(priority=[])), *self.entries])
            if table.priority is not None
        )
        otherwise_part, otherwise = next(
            ((part, table.otherwise) for part, table in reversed(self.entries) if table.otherwise),
            (base_part, raw.Otherwise()),
        )
        tables = [table for _, table in self.entries if "request_error" in table.model_fields_set]
        variants = next(
            (self._variants(p, t.variants) for p, t in reversed(self.entries) if t.variants), None
        )
        self._warn_unused([*shortcuts, *switches], priority, adjust)
        return rules.Oracle(
            name=self.name,
            assume=tuple(assume),
            shortcuts=tuple(shortcuts),
            requests=self.requests,
            request_error=(tables or [raw.OracleTable()])[-1].request_error,
            switches=tuple(switches),
            priority=self._priority(priority_part, priority),
            adjust=tuple(adjust),
            variants=variants,
            backends=self.backends,
            otherwise=rules.Otherwise(
                otherwise.backend,
                otherwise.error,
                self._reason(otherwise_part, otherwise, ("oracles", self.name, "otherwise")),
            ),
            location=base_part.source.key_at(("oracles", self.name)),
            withdrawn={
                name: reason
                for name, reason in self.withdrawn.items()
                if name not in self.backends and name not in self.requests
            },
        )

    # Pieces -----------------------------------------------------------------------------------

    def _path(self, *rest: str | int) -> KeyPath:
        return ("oracles", self.name, *rest)

    def _reason(self, part: Part, table: raw.Explained, path: KeyPath) -> rules.Reason:
        return rules.Reason(table.because, part.source.key_at(path), table.quirk)

    def _withdraw(
        self, part: Part, table: raw.OracleTable, section: str, entries: dict[str, Any]
    ) -> dict[str, rules.Reason]:
        """Take away the entries of a section that a file withdraws; why, by name."""
        names = getattr(table.withdrawn, section)
        path = self._path("withdrawn", section)
        reasons, problems = withdraw(part.source, path, names, entries)
        self.parser(part).problems += problems
        return reasons

    def _standing(self, names: list[str]) -> list[str]:
        """Backends without those that are withdrawn."""
        return [name for name in names if name not in self.gone]

    def _known_backends(self, part: Part, names: list[str], path: KeyPath) -> None:
        """Note what is wrong with a list of backends: names of none, and names that come twice."""
        for i, name in enumerate(names):
            self._known_backend(part, name, (*path, i))
            if name in names[:i]:
                message = f"{name!r} stands in the {path[-1]} twice"
                self.parser(part).problem("duplicate-backend", message, (*path, i))

    def _known_backend(self, part: Part, name: str, path: KeyPath) -> rules.Backend | None:
        """The backend of that name; None, which is a finding unless it is withdrawn, for none."""
        backend = self.backends.get(name)
        if backend is None and name not in self.gone:
            hint = did_you_mean(name, self.backends)
            self.parser(part).problem(
                "unknown-backend", f"oracle {self.name!r} declares no backend {name!r}{hint}", path
            )
        return backend

    def _known_kernel(self, part: Part, name: str, path: KeyPath) -> rules.Kernel | None:
        kernel = self.kernels.get(name)
        if kernel is None and name in self.withdrawn_kernels:
            return None
        if kernel is None:
            hint = did_you_mean(name, self.kernels)
            self.parser(part).problem(
                "unknown-kernel", f"no kernel {name!r} is declared{hint}", path
            )
        else:
            self.used_kernels.add(name)
        return kernel

    def _backend(self, part: Part, name: str, table: raw.BackendTable) -> rules.Backend:
        path = self._path("backends", name)
        choices = []
        for i, choice in enumerate(table.kernels):
            kernel = self._known_kernel(part, choice.kernel, (*path, "kernels", i))
            if kernel is not None:
                when = self.parser(part).condition(choice.when, (*path, "kernels", i, "when"))
                choices.append(rules.Choice(kernel, when))
        return rules.Backend(
            name=name,
            choices=tuple(choices),
            requires=self.parser(part).condition(table.requires, (*path, "requires")),
            assume=self._assumed(part, table.assume, (*path, "assume")),
            location=part.source.key_at(path),
            withdrawn=tuple(
                (choice.kernel, self.withdrawn_kernels[choice.kernel])
                for choice in table.kernels
                if choice.kernel in self.withdrawn_kernels
            ),
        )

    def _assumed(
        self, part: Part, values: Mapping[str, Any] | None, path: KeyPath
    ) -> rules.Assumed:
        result: list[tuple[str, FactValue | rules.ValueOf]] = []
        parser = self.parser(part)
        for name, value in (values or {}).items():
            here = (*path, name)
            fact = parser.fact(name, here, key=True)
            if fact is None:
                continue
            if isinstance(value, dict) and set(value) == {"value_of"}:
                result.append((name, parser.value_of(fact, value["value_of"], here)))
            else:
                result.append((name, parser.value(fact, value, here)))
        return tuple(result)

    def _combined(
        self,
        section: str,
        resolve: Callable[[Part, KeyPath, Any], EntryT | None],
        *,
        before: bool = False,
        check: Callable[[Sequence[EntryT]], Iterable[Problem]] = lambda entries: (),
    ) -> list[EntryT]:
        """A list of all files: replaced entries in their place, the others in file order.

        ``before``: those of overlays come before the packaged ones, not after. ``check`` says what
        is wrong with the entries of one file beside each other.
        """
        combined: list[tuple[str | None, EntryT | None]] = []
        gone: set[str] = set()
        for part, oracle in self.entries:
            named = {known: entry for known, entry in combined if known is not None}
            gone |= self._withdraw(part, oracle, section, named).keys()
            combined = [one for one in combined if one[0] is None or one[0] in named]
            added: list[tuple[str | None, EntryT | None]] = []
            standing: list[EntryT] = []
            for i, table in enumerate(getattr(oracle, section)):
                path = self._path(section, i)
                entry = resolve(part, path, table)
                standing += [] if entry is None else [entry]
                name, replaced = table.name, table.replaces
                names = [known for known, _ in combined]
                if replaced in names and replaced is not None:
                    combined[names.index(replaced)] = (replaced, entry)
                elif replaced is not None and replaced in gone:
                    pass  # what takes the place of nothing says nothing
                elif replaced is not None:
                    known_names = [known for known in names if known is not None]
                    hint = did_you_mean(replaced, known_names)
                    self.parser(part).problem(
                        "unknown-name",
                        f"no entry of {section!r} is named {replaced!r}{hint}",
                        (*path, "replaces"),
                    )
                elif name is not None and name in [*names, *(known for known, _ in added)]:
                    self.parser(part).problem(
                        "declared-twice", f"{name!r} names another entry already", (*path, "name")
                    )
                else:
                    added.append((name, entry))
            self.parser(part).problems += check(standing)
            combined = [*added, *combined] if before else [*combined, *added]
        return [entry for _, entry in combined if entry is not None]

    def _assumption(self, part: Part, path: KeyPath, table: raw.Assumption) -> rules.Assumption:
        return rules.Assumption(
            self.parser(part).condition(table.when, (*path, "when")),
            self._assumed(part, table.set, (*path, "set")),
            self._reason(part, table, path),
        )

    def _step(self, part: Part, path: KeyPath, table: raw.Step) -> rules.Step | None:
        """The step; None if it is about backends alone that are withdrawn."""
        when = self.parser(part).condition(table.when, (*path, "when"))
        reason = self._reason(part, table, path)
        if table.refuse is not None:
            return rules.Step("refuse", when, reason, text=table.refuse, error=table.error)
        if table.drop is not None:
            self._known_backends(part, table.drop, (*path, "drop"))
            names = self._standing(table.drop)
            empty = table.drop and not names
            return None if empty else rules.Step("drop", when, reason, names=tuple(names))
        named = {"take": table.take, "try": table.try_, "force": table.force}
        action, name = next((word, name) for word, name in named.items() if name is not None)
        if name in self.gone:
            return None
        if action == "take" and table.kernels is None and name not in self.backends:
            # An answer without a kernel: the platform's own code takes over from here.
            backend = rules.Backend(name, (), ALWAYS, (), part.source.key_at(path))
        else:
            found = self._known_backend(part, name, (*path, action))
            backend = found or rules.Backend(name, (), ALWAYS, (), part.source.key_at(path))
        if table.kernels is not None:
            kernels = [
                self._known_kernel(part, kernel, (*path, "kernels", i))
                for i, kernel in enumerate(table.kernels)
            ]
            choices = tuple(rules.Choice(kernel) for kernel in kernels if kernel is not None)
            backend = backend.replaced(choices=choices)
        if table.requires is not None:
            requires = self.parser(part).condition(table.requires, (*path, "requires"))
            backend = backend.replaced(requires=all_of(backend.requires, requires))
        return rules.Step(
            action,  # type: ignore[arg-type]
            when,
            reason,
            backend,
            assume=self._assumed(part, table.assume, (*path, "assume")),
            error=table.error,
            own_kernels=table.kernels is not None,
        )

    def _request(self, part: Part, word: str, tables: list[raw.RequestCase]) -> None:
        """Note what a requested name means; nothing if all that it means is withdrawn."""
        cases = []
        for i, table in enumerate(tables):
            path = self._path("requests", word, i)
            if path not in part.source.places:
                path = path[:-1]
            auto = table.use == [AUTO]
            backends = [
                self._known_backend(part, name, (*path, "use")) for name in table.use if not auto
            ]
            if not auto and not self._standing(table.use):
                continue
            cases.append(
                rules.RequestCase(
                    self.parser(part).condition(table.when, (*path, "when")),
                    tuple(backend for backend in backends if backend is not None),
                    auto,
                    self._assumed(part, table.assume, (*path, "assume")),
                    table.variants == "all",
                    self._reason(part, table, path),
                )
            )
        if cases:
            self.requests[word] = tuple(cases)
        else:
            self.withdrawn[word] = self.withdrawn[tables[0].use[0]]

    def _priority(self, part: Part, names: list[str]) -> tuple[str, ...]:
        path = self._path("priority")
        self._known_backends(part, names, path)
        return tuple(self._standing(names))

    def _variants(self, part: Part, table: raw.Variants) -> rules.Variants | None:
        path = self._path("variants")
        parser = self.parser(part)
        fact = parser.fact(table.by, (*path, "by"))
        if fact is None:
            return None
        return rules.Variants(table.by, parser.value(fact, table.fallback, (*path, "fallback")))

    # Adjustments ------------------------------------------------------------------------------

    def _adjustment(
        self, part: Part, path: KeyPath, table: raw.Adjustment
    ) -> rules.Adjustment | None:
        """The adjustment; None if it is about backends alone that are withdrawn."""
        when = self.parser(part).condition(table.when, (*path, "when"))
        reason = self._reason(part, table, path)
        if table.move is not None:
            action, anchor = ("before", table.before) if table.before else ("after", table.after)
            self._known_backend(part, table.move, (*path, "move"))
            self._known_backend(part, anchor or "", (*path, action))
            if not self._standing([table.move]) or anchor in self.gone:
                return None
            return rules.Adjustment(
                action,  # type: ignore[arg-type]
                (table.move,),
                when,
                reason,
                anchor,
            )
        lists = {
            "first": table.first,
            "last": table.last,
            "drop": table.drop,
            "withdraw": table.withdraw,
        }
        action, names = next((word, names) for word, names in lists.items() if names is not None)
        self._known_backends(part, names, (*path, action))
        standing = tuple(self._standing(names))
        if names and not standing:
            return None
        return rules.Adjustment(action, standing, when, reason)  # type: ignore[arg-type]

    def _warn_unused(
        self,
        steps: list[rules.Step],
        priority: list[str],
        adjust: list[rules.Adjustment],
    ) -> None:
        used = set(priority) | {step.backend.name for step in steps if step.backend}
        used |= {
            b.name for cases in self.requests.values() for case in cases for b in case.backends
        }
        used |= {name for adjustment in adjust for name in adjustment.names}
        part, _ = self.entries[0]
        own = {name for _, table in self.entries for name in table.backends}
        for name, backend in self.backends.items():
            if name in own - used:
                self.parser(part).problems.append(
                    Problem(
                        "unused-backend",
                        f"backend {name!r} is in no priority, request or step",
                        backend.location,
                        "warning",
                    )
                )
