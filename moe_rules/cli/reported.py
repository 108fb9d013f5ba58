"""What a report shows: every model on every machine in every format, in every deployment."""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from moe_rules.analysis.nearest import Neighbours
from moe_rules.cli.deployment import machine_of
from moe_rules.cli.derivations import Derivations, Derived
from moe_rules.cli.model_files import ModelFiles, read_model
from moe_rules.cli.render import progress
from moe_rules.cli.report_answers import Side
from moe_rules.cli.report_files import ReportFiles
from moe_rules.cli.report_measured import State, measured_layers
from moe_rules.cli.rule_sets import PACKAGED, RuleSet, rule_set
from moe_rules.cli.schemes import MACHINES, SCHEMES
from moe_rules.cli.stated import Stated
from moe_rules.engine.decision import FORMAT_VERSION
from moe_rules.files.packaged import packaged_rules
from moe_rules.files.releases import release_of, releases
from moe_rules.language.requested import requests_from_environ
from moe_rules.language.rules import AUTO
from moe_rules.language.ruleset import overlay_paths
from moe_rules.machines.machine import Machine
from moe_rules.models.hf_config import quantization_block
from moe_rules.reporting.report.families import OTHER, families, family_of
from moe_rules.reporting.report.schema import VERSION
from moe_rules.reporting.report.tables import Tables
from moe_rules.selectors.selector import Selector
from moe_rules.version import __version__


class Survey:
    """The cells of a report, one after the other, in shared tables."""

    def __init__(self, deployments: Sequence[Mapping[str, Any]], files: ReportFiles) -> None:
        self.tables = Tables(files.name)
        self.requests: dict[str, None] = {}
        self.neighbours: dict[tuple[str, str], Neighbours] = {}
        self._deployments = deployments

    def answers(
        self, derivations: Derivations, facts: Mapping[str, Any], side: Side
    ) -> dict[str, int]:
        """The positions of a cell's answers, by request."""
        by_default = self.layers(derivations, facts, AUTO)
        names = dict.fromkeys(name for one in by_default for name in side.requests(one))
        self.requests |= names
        return {
            name: self._answers(side, self.layers(derivations, facts, name), name)
            for name in (AUTO, *names)
        }

    def layers(
        self, derivations: Derivations, facts: Mapping[str, Any], request: str
    ) -> list[Derived]:
        """What comes of each deployment, before anything is decided."""
        return [
            derivations.layers(number, options, facts, request)
            for number, options in enumerate(self._deployments)
        ]

    def _answers(self, side: Side, layers: Sequence[Derived], request: str) -> int:
        # The least change is found for the first deployment alone, as it takes its time; of a
        # request, it is to ask for another backend.
        answers = [
            side.answer(one, request, nearest=request == AUTO and number == 0)
            for number, one in enumerate(layers)
        ]
        return self.tables.answers(
            [one.outcome for one in answers],
            [one.decisions for one in answers],
            [one.facts for one in answers],
        )


def report_data(
    args: argparse.Namespace, deployments: Sequence[Mapping[str, Any]], stack: ExitStack
) -> dict[str, Any]:
    """The data of a report that the options ask for, as its schema says.

    Folders of git revisions last as long as ``stack``. Raises UserError, or an error of the
    libraries for wrong input.
    """
    stated = Stated.read(args)
    names = list(dict.fromkeys(args.machine or MACHINES))
    machines = [machine_of(name, args.software, stated) for name in names]
    given = _given(args)
    against = None if args.against is None else rule_set(args.against, stack)
    files = ReportFiles([given] if against is None else [given, against])
    survey = Survey(deployments, files)
    after = _Rules(given, machines, stated, survey)
    before = None if against is None else _Rules(against, machines, stated, survey)
    schemes = args.scheme or [None, *SCHEMES]
    cells: list[dict[str, Any]] = []
    states: list[State] = []
    with progress("deciding", len(args.model) * len(schemes) * len(machines)) as advance:
        for cell, some in _cells(args, schemes, machines, survey, after, before):
            cells.append(cell)
            states += some
            advance()
    models = [read_model(name, after.tables) for name in args.model]
    tables = survey.tables.plain()
    backends = {*after.backends(), *(() if before is None else before.backends())}
    return {
        "version": VERSION,
        "moe_rules": __version__,
        "format_version": FORMAT_VERSION,
        "arguments": _common_arguments(args),
        "repository": args.repository and args.repository.rstrip("/"),
        "family_names": [*families(), OTHER],
        "families": {name: family_of(name) for name in sorted(backends)},
        "after": after.plain(),
        "before": None if before is None else before.plain(),
        "models": [
            {"name": found.name, "argument": name, "format": _format_of(found)}
            for found, name in zip(models, args.model, strict=True)
        ],
        "machines": [
            {"name": name, "record": machine.to_dict()}
            for name, machine in zip(names, machines, strict=True)
        ],
        "schemes": schemes,
        "deployments": list(deployments),
        "requests": [AUTO, *sorted(survey.requests.keys() - {AUTO})],
        "cells": cells,
        **tables,
        "in_repository": sorted(files.in_repository),
        "measured": [] if args.bench is None else measured_layers(args.bench, states),
    }


def _cells(
    args: argparse.Namespace,
    schemes: Sequence[str | None],
    machines: Sequence[Machine],
    survey: Survey,
    after: _Rules,
    before: _Rules | None,
) -> Iterator[tuple[dict[str, Any], list[State]]]:
    """Every cell, and its states that may have been measured."""
    number = itertools.count()
    for (m, model), (s, scheme) in itertools.product(enumerate(args.model), enumerate(schemes)):
        options = argparse.Namespace(**{**vars(args), "model": model})
        derivations = after.derivations(options, scheme)
        earlier = None if before is None else before.derivations(options, scheme)
        for p, machine in enumerate(machines):
            facts = machine.facts()
            cell: dict[str, Any] = {"model": m, "scheme": s, "machine": p}
            cell["after"] = survey.answers(derivations, facts, after.sides[p])
            if before is not None and earlier is not None:
                alike = before.tables is after.tables and (
                    before.fingerprints[p] == after.fingerprints[p]
                )
                cell["before"] = (
                    cell["after"] if alike else survey.answers(earlier, facts, before.sides[p])
                )
            asked = [] if args.bench is None else survey.layers(derivations, facts, AUTO)
            place = next(number)
            states = [
                State(place, deployment, machine, after.sides[p].selector, question)
                for deployment, derived in enumerate(asked)
                for question in (derived if isinstance(derived, tuple) else ())
            ]
            yield cell, states


class _Rules:
    """One side of a report: a rule set, for each of the machines."""

    def __init__(
        self, rules: RuleSet, machines: Sequence[Machine], stated: Stated, survey: Survey
    ) -> None:
        self._rules = rules
        self.tables = rules.tables()
        self.fingerprints: list[str] = []
        self.sides: list[Side] = []
        self._stated = stated
        for machine in machines:
            own = rules.load(machine.device)
            stated.refuse_withdrawn(own)
            requests = requests_from_environ(os.environ, own.oracles)
            facts = {**machine.facts(), **stated.switches}
            selector = Selector(own, facts, requested=requests)
            self.sides.append(Side(selector, survey.tables, survey.neighbours))
            self.fingerprints.append(own.fingerprint)

    def derivations(self, args: argparse.Namespace, scheme: str | None) -> Derivations:
        """The layers of ``args.model`` in a format; None: in its own."""
        model = read_model(args.model, self.tables)
        in_scheme = model if scheme is None else model.in_scheme(scheme)
        return Derivations(args, self._stated, in_scheme, self.tables)

    def backends(self) -> Iterator[str]:
        """The names of all backends."""
        for side in self.sides:
            for oracle in side.selector.rules.oracles.values():
                yield from oracle.backends

    def plain(self) -> dict[str, Any]:
        """As the schema has it."""
        return {
            "name": self._rules.name,
            "arguments": self._rules.arguments,
            "fingerprints": self.fingerprints,
        }


def _given(args: argparse.Namespace) -> RuleSet:
    """The rules that the options name."""
    options = [] if args.release is None else ["--release", args.release]
    options += [word for given in args.rules for word in ("--rules", given)]
    overlays = overlay_paths(args.rules, args.release)
    latest = f"{PACKAGED} (vLLM {releases()[0].name})"
    name = latest if args.release is None else f"vLLM {release_of(args.release).name}"
    names = ", ".join(path.name for path in overlay_paths(args.rules))
    name = f"{name} with {names}" if names else name
    return RuleSet(name, packaged_rules(), overlays, tuple(options))


def _common_arguments(args: argparse.Namespace) -> list[str]:
    """What the commands of all cells are given."""
    words = [] if args.software is None else ["--software", args.software]
    return [*words, *(word for fact in args.set for word in ("--set", fact))]


def _format_of(model: ModelFiles) -> str:
    """What a model's own format is called in its files."""
    found = quantization_block(model.config, model.hf_quant_config, model.names)
    return "unquantized" if found is None else str(found[1].get("quant_method", "quantized"))
