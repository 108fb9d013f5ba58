"""What the rules of a platform say of all deployments at once, where that is hardly what was meant.

Regions of rules say what nothing reaches. What changes no decision is found by taking it out. What
several oracles share (by ``extends``, or a kernel) is found where it holds for all of them.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field

from moe_rules.analysis.compiled import compile_oracle
from moe_rules.analysis.diagram import Node
from moe_rules.analysis.findings import Finding
from moe_rules.analysis.parts import Part, holders, parts_of, rules_of
from moe_rules.analysis.states import Server
from moe_rules.analysis.verified import VerifiedOracle, places_of
from moe_rules.analysis.worlds import Irrelevant, packaged_worlds
from moe_rules.files.problems import Location
from moe_rules.language.rules import Kernel, PlatformRules, assumed_together
from moe_rules.machines.machine import named_machines, software_preset
from moe_rules.vocabulary.fact_values import FactValue, in_words
from moe_rules.vocabulary.switches import SWITCHES

PER_ORACLE = ("failing-request", "left-unserved", "irrelevant-fact", "taken-unasked")
"""Codes of what holds of one oracle, whoever shares the place."""


def findings(rules: PlatformRules, files: Container[str] | None = None) -> Iterator[Finding]:
    """Everything that is found in the rules of one platform.

    Of what does not stand in one of the ``files`` (None: all), only that which nothing reaches.
    """
    irrelevant = packaged_worlds().irrelevant
    conditions = [one.when for one in irrelevant]
    oracles = [
        VerifiedOracle(compile_oracle([rules], name, conditions=conditions))
        for name in rules.oracles
    ]
    found = [
        *_shared(oracles, files),
        *(one for kernel in rules.kernels.values() for one in _kernel(rules, kernel, oracles)),
    ]
    found = [one for one in found if files is None or one.is_unreachable or _is_in(one, files)]
    yield from found
    idle = {one.location for one in found if one.is_idle}
    for one in _conditions(oracles, files):
        if not idle.issuperset(one.holders):
            yield one.replaced(holders=tuple(place for place in one.holders if place not in idle))


def _is_in(finding: Finding, files: Container[str]) -> bool:
    return finding.location.file in files


def _shared(oracles: list[VerifiedOracle], files: Container[str] | None) -> Iterator[Finding]:
    """What is found in one oracle after the other, where it holds for all that share its place."""
    found: dict[tuple[str, Location, str], list[Finding]] = {}
    for oracle in oracles:
        for one in _oracle(oracle, files):
            if one.code in PER_ORACLE:
                yield one
            else:
                found.setdefault((one.code, one.location, one.message), []).append(one)
    unreached = {
        (one.oracle, one.location) for of in found.values() for one in of if one.is_unreachable
    }
    for (_, place, _), same in found.items():
        sharing = {one.oracle.name for one in oracles if place in places_of(one.oracle)}
        if not same[0].is_unreachable:
            sharing = {name for name in sharing if (name, place) not in unreached}
        if len(same) == len(sharing):
            yield same[0]


def _oracle(oracle: VerifiedOracle, files: Container[str] | None) -> Iterator[Finding]:
    yield from _backends(oracle)
    yield from _shadowed_kernels(oracle)
    yield from _rules(oracle, files)
    yield from _failing_requests(oracle)
    yield from _left_unserved(oracle)
    yield from _taken_unasked(oracle)
    for irrelevant in packaged_worlds().irrelevant:
        yield from _irrelevant(oracle, irrelevant)


def _finding(
    oracle: VerifiedOracle, code: str, place: Location, message: str, *shown: Node
) -> Finding:
    """A finding, with a witness of some conditions where any are given."""
    witness = oracle.witness(*shown) if shown else {}
    return Finding(code, message, place, oracle.oracle.name, witness)


# Backends and kernels ----------------------------------------------------------------------------


def _backends(oracle: VerifiedOracle) -> Iterator[Finding]:
    by_name = oracle.results(how="requested")
    automatic = oracle.diagrams.opposite(by_name)
    has_names = any(not c.auto for cases in oracle.oracle.requests.values() for c in cases)
    full = software_preset("full", oracle.selection.rules.platform)
    for name, backend in oracle.oracle.backends.items():
        gets = oracle.where(oracle.results(backend=name))
        unasked = oracle.narrowed(oracle.where(gets, automatic), full)
        named = oracle.narrowed(oracle.where(gets, by_name), full)
        place, nowhere = backend.location, oracle.diagrams.false
        if gets is nowhere:
            yield _finding(oracle, "unreachable-backend", place, f"no deployment gets {name}")
        elif name in oracle.oracle.priority and not oracle.is_somewhere(gets, automatic):
            message = f"{name} is in the order, but only a request gets it"
            yield _finding(oracle, "never-automatic", place, message, gets)
        elif name in oracle.oracle.priority and unasked is nowhere and named is not nowhere:
            message = f"where all software is installed, only a request gets {name}"
            yield _finding(oracle, "never-automatic", place, message, gets, automatic)
        elif has_names and not oracle.is_somewhere(gets, by_name):
            yield _finding(oracle, "without-request", place, f"no request gets {name}", gets)


def _shadowed_kernels(oracle: VerifiedOracle) -> Iterator[Finding]:
    """Kernels that a backend offers and never uses, though they could serve."""
    for name, backend in oracle.oracle.backends.items():
        if not oracle.is_somewhere(oracle.results(backend=name)):
            continue
        for choice in backend.choices:
            kernel = choice.kernel
            uses = [u for u in oracle.uses if (u[0].location, u[1]) == (backend.location, kernel)]
            able = oracle.some_of(serves for _, _, serves, _ in uses)
            selected = oracle.some_of(selected for *_, selected in uses)
            if oracle.is_somewhere(able) and not oracle.is_somewhere(selected):
                message = f"{name} never uses {kernel.name}: others take all that it would"
                yield _finding(oracle, "shadowed-kernel", backend.location, message, able)


def _kernel(
    rules: PlatformRules, kernel: Kernel, oracles: list[VerifiedOracle]
) -> Iterator[Finding]:
    uses = [
        (oracle, serves, selected)
        for oracle in oracles
        for _, used, serves, selected in oracle.uses
        if used.location == kernel.location
    ]
    able = [(oracle, serves) for oracle, serves, _ in uses if oracle.is_somewhere(serves)]
    gets = [(oracle, selected) for oracle, _, selected in uses if oracle.is_somewhere(selected)]
    machines = [m for m in named_machines().values() if m.platform["device"] == rules.platform]
    place, name = kernel.location, kernel.name
    if not uses:
        return
    if not able:
        message = f"{name} serves no deployment: none has all that it requires"
        yield _finding(uses[0][0], "unsatisfiable-kernel", place, message)
        return
    if not gets:
        message = f"no deployment gets {name}, though it would serve"
        yield _finding(able[0][0], "unreachable-kernel", place, message, able[0][1])
        return
    if machines and not _somewhere(able, *(machine.platform for machine in machines)):
        message = f"{name} serves on none of the named machines"
        yield _finding(able[0][0], "kernel-without-machine", place, message, able[0][1])
    if not _somewhere(gets, dict.fromkeys(SWITCHES)):
        message = f"no deployment gets {name} unless a switch is set"
        yield _finding(gets[0][0], "needs-switch", place, message, gets[0][1])


def _somewhere(regions: list[tuple[VerifiedOracle, Node]], *facts: Mapping[str, FactValue]) -> bool:
    """Whether one of the regions has deployments with one of several groups of facts."""
    return any(
        oracle.is_somewhere(oracle.narrowed(region, known))
        for oracle, region in regions
        for known in facts
    )


# Rules -------------------------------------------------------------------------------------------


def _rules(oracle: VerifiedOracle, files: Container[str] | None) -> Iterator[Finding]:
    for part, words in rules_of(oracle.oracle):
        region = oracle.selection.regions.get(part.location)
        place = part.location
        if region is not None and not oracle.is_somewhere(region.applies):
            reached = oracle.is_somewhere(region.reached)
            message = f"{words} {'applies to no deployment' if reached else 'is never reached'}"
            yield _finding(oracle, f"unreachable-{part.kind}", place, message)
        elif (files is None or place.file in files) and not oracle.matters(part):
            shown = () if region is None else (region.applies,)
            message = f"without {words}, every deployment is decided alike"
            yield _finding(oracle, f"{part.kind}-without-effect", place, message, *shown)


@dataclass
class _Use:
    """A part of conditions: in words, the parts around it, who has it, and in which oracles."""

    words: str
    inside: tuple[Part, ...]
    holders: dict[Location, None] = field(default_factory=dict)
    oracles: dict[str, VerifiedOracle] = field(default_factory=dict)


def _conditions(oracles: list[VerifiedOracle], files: Container[str] | None) -> Iterator[Finding]:
    """Parts of conditions without which all oracles decide alike."""
    uses: dict[Part, _Use] = {}
    for oracle in oracles:
        for holder in holders(oracle.oracle):
            for part, words, inside in parts_of(holder.condition):
                if files is None or part.location.file in files:
                    use = uses.setdefault(part, _Use(words, inside))
                    use.holders[holder.location] = None
                    use.oracles[oracle.oracle.name] = oracle
    found: set[Part] = set()
    for part, use in uses.items():
        users = list(use.oracles.values())
        if not found.isdisjoint(use.inside) or any(oracle.matters(part) for oracle in users):
            continue
        found.add(part)
        regions = [(oracle, oracle.applied_otherwise(part)) for oracle in users]
        alone = [(oracle, region) for oracle, region in regions if oracle.is_somewhere(region)]
        message = f"without this {part.kind}, every deployment is decided alike: {use.words}"
        if alone:
            first, region = alone[0]
            code = f"{part.kind}-without-effect"
            one = _finding(first, code, part.location, message, region)
        else:
            one = _finding(users[0], f"redundant-{part.kind}", part.location, message)
        yield one.replaced(holders=tuple(use.holders))


# Deployments -------------------------------------------------------------------------------------


def _failing_requests(oracle: VerifiedOracle) -> Iterator[Finding]:
    served = oracle.diagrams.opposite(oracle.results(backend=None))
    for word, cases in oracle.oracle.requests.items():
        asked = oracle.asked_for(word)
        if oracle.is_somewhere(asked) and not oracle.is_somewhere(asked, served):
            message = f"no deployment that asks for {word!r} is served"
            place = cases[0].reason.location
            yield _finding(oracle, "failing-request", place, message, asked)


def _left_unserved(oracle: VerifiedOracle) -> Iterator[Finding]:
    nothing = oracle.results(how="fallback")
    for name, backend in oracle.oracle.backends.items():
        serves = oracle.some_of(s for used, _, s, _ in oracle.uses if used is backend)
        if oracle.is_somewhere(nothing, serves):
            message = f"{oracle.oracle.name} serves deployments by nothing that {name} would serve"
            yield _finding(oracle, "left-unserved", backend.location, message, nothing, serves)


def _taken_unasked(oracle: VerifiedOracle) -> Iterator[Finding]:
    for step, backend in oracle.takes():
        place = step.reason.location
        server = Server(backend, assumed_together(step.assume, backend.assume))
        refused = oracle.diagrams.opposite(oracle.selection.serves(server)[0])
        decides = oracle.selection.regions[place].decides
        if oracle.is_somewhere(decides, refused):
            kernel = backend.choices[0].kernel.name
            message = f"{kernel} is selected for deployments that it does not serve"
            yield _finding(oracle, "taken-unasked", place, message, decides, refused)


def _irrelevant(oracle: VerifiedOracle, irrelevant: Irrelevant) -> Iterator[Finding]:
    concerns = oracle.selection.conditions.applies(irrelevant.when, {})
    for fact in irrelevant.facts:
        pair = oracle.differing_by(fact, concerns)
        if pair is None:
            continue
        one, other = pair
        testing = [h for h in holders(oracle.oracle) if fact in set(h.condition.fact_names())]
        message = (
            f"{fact} decides here and should not ({irrelevant.reason.text}): with "
            f"{fact}={in_words(other[fact])}, the deployment is decided differently"
        )
        for place in dict.fromkeys(holder.location for holder in testing):
            yield _finding(oracle, "irrelevant-fact", place, message).replaced(witness=one)
