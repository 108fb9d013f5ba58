"""Deployments that one oracle may be asked about on one machine.

What the rules of an oracle ask is compiled (:mod:`moe_rules.analysis.compiled`): the facts, the
values of each that they tell apart, and where each of them applies. A release that has no tables
yet may ask more, so every fact of the vocabulary may be changed to any value of its type as well.
"""

from __future__ import annotations

import itertools
import operator
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial

from moe_rules.analysis.compiled import compile_oracle
from moe_rules.analysis.diagram import Node, Value
from moe_rules.analysis.questions import Missing, Seen
from moe_rules.analysis.symbolic import Selection
from moe_rules.analysis.worlds import packaged_worlds
from moe_rules.engine.selection import Result
from moe_rules.language.rules import PlatformRules
from moe_rules.language.ruleset import load_platform
from moe_rules.machines.machine import Machine, software_preset
from moe_rules.selectors.facts import layer_facts
from moe_rules.vocabulary.fact_values import FactValue
from moe_rules.vocabulary.facts import FACTS, REQUEST_DEFAULTS
from moe_rules.vocabulary.layer import FusedMoEConfig
from moe_rules.vocabulary.quant_keys import NAMED_KEYS, QuantKey
from moe_rules.vocabulary.table_names import PLATFORMS
from tools.record.places import CHECKPOINTS, ORACLES

Facts = dict[str, FactValue]
OTHER = "other"
"""The dtype that stands for any other one where rules are compiled."""

_ALTERED = ("software", "layer", "parallel", "quantization", "request")
_FIXED = ("intermediate_size", "model_role", "num_tokens")
"""Facts that follow from others, or that the reference does not have."""


class Deployments:
    """The deployments of one oracle on one machine, as some rule sets tell them apart."""

    def __init__(self, oracle: str, machine: Machine, rules: Sequence[PlatformRules]) -> None:
        self.oracle = oracle
        self.machine = machine
        takes = ORACLES[oracle].takes
        platform = {n: v for n, v in machine.facts().items() if FACTS[n].group == "platform"}
        not_given = {n: None for n in ("weight_key", "activation_key") if n not in takes}
        self._constants: Facts = {**platform, **not_given, "model_role": "target"}
        self._compiled = compile_oracle(rules, oracle, facts=self._constants)
        self.space = self._compiled.space
        self.takes_checkpoint = "quant_config" in takes
        usual = packaged_worlds().usual
        sizes = {name: usual[name] for name in ("num_experts", "experts_per_token", "hidden_dim")}
        layer = FusedMoEConfig(**sizes, intermediate_size=usual["intermediate_size"])  # type: ignore[arg-type]
        checkpoint = FACTS["checkpoint_format"].values[0] if self.takes_checkpoint else None
        options = {n: False for n in takes if n in FACTS and FACTS[n].type == "bool"}
        self._usual: Facts = {
            "weight_key": None,
            "activation_key": None,
            **layer_facts(layer),
            **REQUEST_DEFAULTS,
            "checkpoint_format": checkpoint,
            **options,
            **machine.facts(),
            **self._constants,
        }

    # Where rules apply ---------------------------------------------------------------------------

    def regions(self) -> dict[str, Node]:
        """Where each result comes out, each rule applies, each kernel serves, and rule sets differ.

        By a name; all are somewhere, and no two are the same.
        """
        found: dict[str, Node] = {}
        diagrams, selections = self.space.diagrams, self._compiled.selections
        named = [pair for selection in selections for pair in self._regions(selection)]
        for before, after in itertools.pairwise(selection.results for selection in selections):
            named.append(("rule sets differ", diagrams.apply(operator.ne, before, after)))
        for name, region in named:
            within = diagrams.both(self._compiled.possible, region)
            if True in diagrams.values(within) and within not in found.values():
                found[name if name not in found else f"{name} ({len(found)})"] = within
        return found

    def _regions(self, selection: Selection) -> Iterator[tuple[str, Node]]:
        diagrams = self.space.diagrams
        for result in diagrams.values(selection.results):
            if isinstance(result, Result):
                name = "/".join(filter(None, (result.how, result.backend, result.error)))
                yield name, diagrams.map(partial(operator.eq, result), selection.results)
        for location, region in selection.regions.items():
            yield f"{location.short} applies", region.applies
            yield f"{location.short} decides", region.decides
        for (server, number), asked in selection.asked.items():
            name, serves = f"{server.backend.name} {number}", selection.serves(server)[number]
            yield f"{name} serves", serves
            yield f"{name} asked", asked
            yield f"{name} refuses", diagrams.without(asked, serves)

    def usual_in(self, region: Node) -> Facts:
        """The most usual deployment in a region that is somewhere."""
        return self.completed(self.space.facts(self.space.diagrams.point(region)))

    def any_in(self, region: Node, random_: random.Random) -> Facts:
        """A random deployment in a region that is somewhere, usual in most that it leaves open."""

        def shuffled(level: int) -> list[int]:
            order = list(range(self.space.diagrams.sizes[level]))
            random_.shuffle(order)
            return order

        point = self.space.diagrams.point(region, shuffled)
        facts: Facts = {}
        for level, variable in enumerate(self.space.variables):
            members = variable.classes[point.get(level, 0)]
            values = random_.choice(members) if random_.random() < 0.3 else members[0]
            facts |= _known(variable.facts, values)
        return self.completed(facts)

    def alternatives(self, facts: Facts) -> Iterator[tuple[str, Facts]]:
        """Every deployment that differs in one fact, or in some that rules compare."""
        for variable in self.space.variables:
            here = variable.find(facts)
            for number, members in enumerate(variable.classes):
                changed = _known(variable.facts, members[0])
                if number != here and len(changed) == len(variable.facts):
                    yield ", ".join(variable.facts), self.completed({**facts, **changed})

    def result(self, facts: Facts) -> tuple[Value, ...]:
        """What each rule set comes to, None where it tells nothing of such values."""
        return tuple(_result(selection, facts) for selection in self._compiled.selections)

    # Any fact of the vocabulary ------------------------------------------------------------------

    def altered(self, facts: Facts, random_: random.Random) -> Facts:
        """The deployment with one random fact at a random value of its type."""
        asked = sorted(self._compiled.asked & FACTS.keys() - self._constants.keys())
        names = asked if asked and random_.random() < 0.7 else _alterable()
        name = random_.choice([n for n in names if n not in self._constants])
        return self.completed({**facts, name: _any_value(name, facts.get(name), random_)})

    def with_software(self, facts: Facts, preset: str) -> Facts:
        """The deployment with a preset of software."""
        return {**facts, **software_preset(preset, self.machine.device)}

    def is_possible(self, facts: Facts) -> bool:
        """Whether there can be such a deployment, or the recorder can simulate it."""
        if self.takes_checkpoint and facts.get("checkpoint_format") is None:
            return False
        if any(isinstance(v, QuantKey) and _stands_for_others(v) for v in facts.values()):
            return False
        return not any(
            one.when.holds(facts) is True
            for one in packaged_worlds().impossible
            if not one.simulated
        )

    def completed(self, facts: Mapping[str, FactValue]) -> Facts:
        """The deployment with usual values for what is not said, and with what follows from it."""
        found = {**self._usual, **facts}
        size = found["intermediate_size_per_partition"]
        if "intermediate_size_per_partition_unpadded" not in facts:
            found["intermediate_size_per_partition_unpadded"] = size
        found["intermediate_size"] = int(size) * int(found["tp_size"])  # type: ignore[arg-type]
        if self.takes_checkpoint:
            _complete_checkpoint(found)
        return found


def _result(selection: Selection, facts: Facts) -> Value:
    try:
        return selection.result(facts)
    except LookupError:
        return None


def _known(names: Iterable[str], values: Iterable[Seen]) -> Facts:
    pairs = zip(names, values, strict=True)
    return {name: value for name, value in pairs if not isinstance(value, Missing)}


def _stands_for_others(key: QuantKey) -> bool:
    """The key is of no dtype that there is: a class of keys that nothing supports."""
    return OTHER in (key.dtype, key.scale.dtype, key.scale2 and key.scale2.dtype)


def _complete_checkpoint(facts: Facts) -> None:
    """Let a checkpoint state what its format has, and nothing else."""
    form, key = facts.get("checkpoint_format"), facts.get("weight_key")
    stated = CHECKPOINTS[str(form)][1] if form is not None else ()
    symmetric = key.symmetric if isinstance(key, QuantKey) else True
    digits = "".join(itertools.takewhile(str.isdigit, getattr(key, "dtype", "")[4:5]))
    channel = form == "compressed_tensors" and facts.get("group_size") in (None, -1)
    follows: Facts = {
        "num_bits": int(digits or 4),
        "symmetric": symmetric,
        "zero_point": not symmetric,
        "desc_act": False,
        "group_size": None if form == "compressed_tensors" else -1,
        "strategy": "channel" if channel else "group",
        "actorder": None,
    }
    for name, value in follows.items():
        if name not in stated:
            facts[name] = None
        elif facts.get(name) is None:
            facts[name] = value


def _alterable() -> list[str]:
    return [f.name for f in FACTS.values() if f.group in _ALTERED and f.name not in _FIXED]


def _any_value(name: str, value: FactValue, random_: random.Random) -> FactValue:
    """A value of a fact's type, often near the usual one."""
    fact = FACTS[name]
    values: list[FactValue]
    match fact.type:
        case "bool":
            values = [value is not True]
        case "switch":
            values = [True, False, None]
        case "enum":
            values = list(fact.values)
        case "string":
            values = list(fact.values) or (_request_names() if name == "moe_backend" else [])
        case "int":
            values = [_any_integer(name, random_)]
        case "float":
            values = [0.0, 1.0, 1.702, 7.0, round(random_.uniform(0, 30), 1)]
        case "quant_key":
            values = list(NAMED_KEYS.values())
        case "version":
            values = [value]
    if fact.nullable and (not values or random_.random() < 0.2):
        return None
    return random_.choice(values)


def _any_integer(name: str, random_: random.Random) -> int:
    fact = FACTS[name]
    usual = packaged_worlds().usual.get(name, 4)
    scale = usual if type(usual) is int else 4
    step = random_.choice((1, 8, 16, 32, 64, 96, 128, 256))
    values: list[int] = [
        2 ** random_.randint(0, scale.bit_length() + 3),
        step * random_.randint(1, max(1, 3 * scale // step)),
        scale * random_.randint(1, 8) + random_.choice((-1, 0, 1)),
    ]
    return max(random_.choice(values), fact.least or 0)


_names: list[FactValue] = []


def _request_names() -> list[FactValue]:
    """Every name by which some oracle takes a request."""
    if not _names:
        rules = [load_platform(platform) for platform in PLATFORMS]
        oracles = [oracle for one in rules for oracle in one.oracles.values()]
        _names.extend(sorted({"auto", *(name for one in oracles for name in one.requests)}))
    return _names
