"""Names in files beside rules: backends, kernels and machines of which there are none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from moe_rules.analysis.policies import policies_of
from moe_rules.analysis.proving import name_problems, outcome_names, unknown_name
from moe_rules.files.problems import KeyPath, Problem
from moe_rules.files.yaml_source import YamlSource
from moe_rules.language.examples import NONE, Example, examples_of
from moe_rules.language.rules import PlatformRules
from moe_rules.language.words import Words
from moe_rules.machines.machine import MachineError, load_machine


def names_in_policies(
    source: YamlSource, rules: Mapping[str, PlatformRules], words: Words
) -> Iterator[Problem]:
    """The findings of a file of policies that holds of some rules, by platform.

    Raises RuleFileError for a file that is wrong in itself.
    """
    for policy in policies_of(source, words):
        yield from name_problems(policy, rules)


def names_in_examples(
    source: YamlSource, rules: Mapping[str, PlatformRules], words: Words
) -> Iterator[Problem]:
    """The findings of a file of examples that are asked of some rules, by platform.

    The names that a platform has are those that count, where an example says which it is on.
    """
    for example in examples_of(source):
        device = example.facts.get("device")
        if example.machine is not None:
            try:
                device = load_machine(example.machine, example.software).device
            except MachineError as error:
                yield Problem("unknown-machine", str(error), example.at("machine"))
                continue
        asked = [one for name, one in rules.items() if device in (None, name)]
        yield from _names_in(example, asked)


def _names_in(example: Example, rules: list[PlatformRules]) -> Iterator[Problem]:
    known = outcome_names(
        one.oracles[example.oracle] for one in rules if example.oracle in one.oracles
    )
    expect = example.expect
    said: list[tuple[str, str | None, KeyPath]] = [
        ("backend", expect.backend, ("backend",)),
        ("kernel", expect.kernel, ("kernel",)),
        *(("backend", name, ("order", i)) for i, name in enumerate(expect.order or ())),
    ]
    for kind, name, key in said:
        if name not in (None, NONE, *known[kind]):
            place = example.source.at((*example.path, "expect", *key))
            yield unknown_name(kind, str(name), known[kind], place)
