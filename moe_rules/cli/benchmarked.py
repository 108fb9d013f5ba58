"""What the packaged rules decide for layers of the benchmark, on the device that it ran on.

These are vLLM's decisions with everything that its installation may have: no overlay, no switch and
no request of this process takes part.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from moe_rules.cli.errors import UserError
from moe_rules.cli.render import console

if TYPE_CHECKING:
    from moe_kernels.benchmark.plan import Plan
    from moe_kernels.benchmark.report import Pick, Results
    from moe_kernels.benchmark.shapes import Scheme, Shape

    from moe_rules.cli.deployment import Question
    from moe_rules.cli.measured_rules import MeasuredLayer
    from moe_rules.engine.decision import Decision
    from moe_rules.engine.explanation import Candidate
    from moe_rules.machines.machine import Machine

ORACLES = {
    "bf16": "unquantized",
    "fp16": "unquantized",
    "fp8_block": "fp8",
    "fp8_channel": "fp8",
    "fp8_tensor": "fp8",
    "int8_w8a8": "int8",
    "int8_w8a16": "int_wna16",
    "int4_w4a16": "int_wna16",
    "mxfp4_w4a16": "mxfp4",
}
"""The oracles of the schemes that the benchmark names."""

_FACTS = ("device", "date", "torch", "triton", "seed", "peers")
"""What is read of the facts of a run."""


def machine_called(device_name: str) -> Machine:
    """The named machine whose driver calls its device so. Raises UserError if there is none."""
    from moe_rules.machines.machine import named_machines

    for named in named_machines().values():
        if named.platform.get("device_name") == device_name:
            return named.machine()
    raise UserError(f"no named machine has a device called {device_name!r} (rules/machines.yaml)")


def decide(scheme_name: str, scheme: Scheme, shape: Shape, machine: Machine) -> Decision:
    """The decision for one layer."""
    from moe_rules.selectors.facts import layer_facts
    from moe_rules.selectors.selector import selector_for

    facts = {
        **layer_facts(shape.moe_config(scheme.in_dtype)),
        "weight_key": scheme.weight_key,
        "activation_key": scheme.activation_key,
    }
    if scheme.group_size is not None:
        facts["group_size"] = scheme.group_size
    return selector_for(machine).decide(ORACLES[scheme_name], facts)


def picks(plan: Plan, device_name: str) -> list[Pick]:
    """What vLLM selects for every layer of ``plan``; none, and a note, on an unknown device."""
    try:
        machine = machine_called(device_name)
    except UserError as error:
        console(sys.stderr).print(f"what vLLM picks is left out: {error}", markup=False)
        return []
    return list(_picks(plan, machine))


def _picks(plan: Plan, machine: Machine) -> Iterator[Pick]:
    from moe_kernels.benchmark.report import Pick

    for scheme, shape in plan.layers():
        decision = decide(scheme, plan.schemes[scheme], plan.shapes[shape], machine)
        if decision.backend is not None and decision.kernel is not None:
            yield Pick(scheme, shape, decision.backend, decision.kernel)


def read_results(folder: Path) -> Results:
    """What ``bench`` wrote into ``folder``. Raises UserError where that is nothing."""
    from moe_kernels.benchmark.report import Results

    try:
        results = Results.read(folder)
        for fact in _FACTS:
            results.run[fact]
        peers = results.run["peers"]
        if not isinstance(peers, dict) or not all(
            isinstance(about, str) for about in peers.values()
        ):
            raise TypeError("run.peers is no text for each peer")
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}"
    except (ValueError, KeyError, TypeError) as error:
        reason = f"layers.json is not what it writes: {_in_words(error)}"
    else:
        return results
    raise UserError(f"{folder} holds no results of moe-rules bench: {reason}")


def _in_words(error: Exception) -> str:
    """An error of reading results; of several only the first."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return str(error) if isinstance(error, ValueError) else repr(error)
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the whole'}: {first['msg']}"


def measured_plan(results: Results) -> Plan:
    """The named layers that ``results`` measured."""
    from moe_kernels.benchmark.plan import Plan
    from moe_kernels.benchmark.shapes import SCHEMES, SHAPES

    measured = results.measurements
    return Plan(
        shapes={m.shape: SHAPES[m.shape] for m in measured if m.shape in SHAPES},
        schemes={m.scheme: SCHEMES[m.scheme] for m in measured if m.scheme in SCHEMES},
        tokens=sorted({m.num_tokens for m in measured}),
        routings=list(dict.fromkeys(m.routing for m in measured)),
        seed=results.run["seed"],
    )


def serving(decision: Decision) -> Iterator[Candidate]:
    """The kernel that each backend would serve with, the selected one first."""
    seen = set()
    for candidate in decision.candidates:
        serves = candidate.verdict == "selected" or (
            candidate.verdict == "eligible" and decision.how == "auto"
        )
        if serves and candidate.backend not in seen:
            seen.add(candidate.backend)
            yield candidate


def measured_layers(folder: Path) -> Iterator[MeasuredLayer]:
    """The layers that ``bench`` measured, with the times of peers that are a backend's kernel.

    Raises UserError for a folder without results, and for a device without a name.
    """
    from moe_kernels.benchmark.shapes import ROUTINGS

    from moe_rules.cli.measured_rules import MeasuredLayer

    results = read_results(folder)
    machine, plan = machine_called(results.run["device"]), measured_plan(results)
    abouts = results.run["peers"]
    versions = {name: str(results.run[name]) for name in ("device", "date", "torch", "triton")}
    for scheme, shape in plan.layers():
        decision = decide(scheme, plan.schemes[scheme], plan.shapes[shape], machine)
        backends = {candidate.kernel: candidate.backend for candidate in serving(decision)}
        by_tokens: dict[int, dict[str, float]] = {}
        used = {}
        for m in sorted(results.measurements, key=lambda m: m.num_tokens):
            if (m.scheme, m.shape, m.routing) != (scheme, shape, ROUTINGS[0]):
                continue
            for kernel in backends.keys() & set(results.peer_kernels.get(m.kernel, ())):
                by_tokens.setdefault(m.num_tokens, {})[backends[kernel]] = m.us
                used[m.kernel] = abouts.get(m.kernel, m.kernel)
        yield MeasuredLayer(decision, by_tokens, {**versions, "kernels": "; ".join(used.values())})


def shape_of(question: Question) -> Shape:
    """The layer's sizes on one rank."""
    from moe_kernels.benchmark.shapes import Shape

    moe = question.moe
    return Shape(
        moe.num_experts,
        moe.experts_per_token,
        moe.hidden_dim,
        moe.intermediate_size_per_partition,
        ep_size=moe.moe_parallel_config.ep_size,
        activation=moe.activation,
        bias=moe.has_bias,
    )


def scheme_of(facts: Mapping[str, object], in_dtype: str) -> tuple[str, Scheme]:
    """The benchmark's scheme with the keys that a kernel is asked with. Raises UserError."""
    from moe_kernels.benchmark.shapes import SCHEMES

    keys = facts.get("weight_key"), facts.get("activation_key")
    size = facts.get("group_size")
    for name, scheme in SCHEMES.items():
        if (scheme.weight_key, scheme.activation_key) != keys:
            continue
        if scheme.weight_key is None and scheme.in_dtype != in_dtype:
            continue
        if scheme.group_size is not None and isinstance(size, int) and size > 0:
            scheme = scheme.in_groups_of(size)
        return name, replace(scheme, in_dtype=in_dtype)
    raise UserError(
        f"no scheme of the benchmark has weights {keys[0]} with activations {keys[1]} in "
        f"{in_dtype} (known: {', '.join(SCHEMES)})"
    )
