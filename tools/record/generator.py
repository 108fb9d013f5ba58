"""Makes cases for one machine, from what the rules ask and what the vocabulary knows.

Three kinds, of which each oracle gets about a third each:

* ``grid``: the most usual deployment for every result, rule and kernel of the tables, and where
  releases differ; the layers of the example models, spread over devices in ordinary ways, with the
  schemes of those.
* ``random``: a random deployment of one of these, with some random facts changed.
* ``flip``: a usual deployment with one fact changed; as far as there are such, every second one
  is decided otherwise by the rules.

The same seed makes the same cases. No vLLM is needed.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from moe_rules.conformance.writing import question_of
from moe_rules.files.releases import releases
from moe_rules.language.rules import PlatformRules
from moe_rules.language.ruleset import load_platform
from moe_rules.machines.machine import Machine, facts_of
from moe_rules.vocabulary.facts import FACTS
from moe_rules.vocabulary.switches import SWITCHES
from tools.record.deployments import Deployments, Facts
from tools.record.ordinary import ordinary, ordinary_layers, ordinary_parallel
from tools.record.places import ORACLES

CHANGES = (0, 1, 1, 2, 2, 3, 5, 8)
"""How many facts of a random deployment are changed, each as often as it stands here."""


def cases_of(
    machine: Machine, name: str, count: int, seed: int, oracles: Iterable[str] = ()
) -> Iterator[dict[str, Any]]:
    """About ``count`` cases for each oracle (all, if none are given), in lines without ``expect``.

    ``name`` is the machine's. Cases are unique; there are fewer where an oracle asks little.
    """
    rules = rule_sets(machine.device)
    wanted = set(oracles)
    for oracle in ORACLES:
        if not wanted or oracle in wanted:
            yield from oracle_cases(oracle, machine, rules, count, f"{seed}:{name}:{oracle}")


def rule_sets(device: str) -> list[PlatformRules]:
    """The tables of a kind of device, of every release that there are tables of.

    So all releases are asked the same, and what one decides otherwise than another is among it.
    """
    return [load_platform(device, release=one.name) for one in releases()]


def oracle_cases(
    oracle: str, machine: Machine, rules: Sequence[PlatformRules], count: int, seed: str
) -> Iterator[dict[str, Any]]:
    """The cases of one oracle."""
    deployments = Deployments(oracle, machine, rules)
    random_ = random.Random(seed)
    seen: set[str] = set()
    share = -(-count // 3)
    for origin, made, most in (
        ("grid", _grid(deployments, random_), share),
        ("random", _random(deployments, random_, count), share),
        ("flip", _flips(deployments, random_), share),
        ("random", _random(deployments, random_, count), count),
    ):
        new = 0
        for tags, facts in made:
            if new == most or len(seen) == count:
                break
            if not deployments.is_possible(facts):
                continue
            case = _case(oracle, machine, facts, origin, tags)
            if case["id"] not in seen:
                seen.add(case["id"])
                new += 1
                yield case


def _case(
    oracle: str, machine: Machine, facts: Facts, origin: str, tags: dict[str, Any]
) -> dict[str, Any]:
    software = {name: bool(facts[name]) for name in facts_of("software")}
    environ = {n: _text(facts[n]) for n in SWITCHES if facts.get(n) is not None}
    others = {name: value for name, value in facts.items() if name not in software}
    there = Machine(machine.name, machine.platform, software, machine.source)
    takes = ORACLES[oracle].takes
    if "quant_config" not in takes:
        others.pop("checkpoint_format", None)
    for name in ("allow_vllm_cutlass", "may_have_zp", "may_have_bias", "allow_tile_padding"):
        if name not in takes:
            others.pop(name, None)
    return question_of(oracle, there, others, environ, origin, tags)


def _text(value: object) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


Made = Iterator[tuple[dict[str, Any], Facts]]


def _grid(deployments: Deployments, random_: random.Random) -> Made:
    regions = list(deployments.regions().items())
    random_.shuffle(regions)
    usual = [(name, deployments.usual_in(region)) for name, region in regions]
    for name, facts in usual:
        yield {"shows": name}, facts
    schemes = [_scheme(facts) for _, facts in usual]
    distinct = [one for number, one in enumerate(schemes) if one not in schemes[:number]]
    points = list(itertools.product(ordinary_layers(), ordinary_parallel(), distinct))
    random_.shuffle(points)
    for model, way, scheme in points:
        tags = {"model": model, "deployment": way}
        yield tags, deployments.completed({**ordinary(model, way), **scheme})


def _scheme(facts: Facts) -> Facts:
    """How a deployment is quantized."""
    return {n: v for n, v in facts.items() if n in FACTS and FACTS[n].group == "quantization"}


def _random(deployments: Deployments, random_: random.Random, count: int) -> Made:
    regions = list(deployments.regions().items())
    for _ in range(5 * count):
        name, region = random_.choice(regions)
        facts = deployments.any_in(region, random_)
        if random_.random() < 0.1:
            facts = deployments.with_software(facts, "bare")
        for _ in range(random_.choice(CHANGES)):
            facts = deployments.altered(facts, random_)
        yield {"near": name}, facts


def _flips(deployments: Deployments, random_: random.Random) -> Made:
    """One fact changed around the usual deployment of each region, one of each in turn."""
    bases: dict[frozenset[Any], tuple[str, Facts]] = {}
    for name, region in deployments.regions().items():
        facts = deployments.usual_in(region)
        bases.setdefault(frozenset(facts.items()), (name, facts))
    around = [_around(deployments, *base, random_) for base in bases.values()]
    random_.shuffle(around)
    for row in itertools.zip_longest(*around):
        yield from filter(None, row)


def _around(deployments: Deployments, name: str, base: Facts, random_: random.Random) -> Made:
    """Deployments that differ from one in a fact: as many decided otherwise as alike, if any."""
    before = deployments.result(base)
    others = list(deployments.alternatives(base))
    random_.shuffle(others)
    alike: list[tuple[dict[str, Any], Facts]] = []
    for fact, facts in others:
        flip = ({"near": name, "fact": fact}, facts)
        if deployments.result(facts) == before:
            alike.append(flip)
        else:
            yield flip
            if alike:
                yield alike.pop()
    yield from alike
