"""Detection: looks at a machine and says what it is, and how each fact is known.

Nothing heavy is imported and no device is initialised; see the probes' own modules:
:mod:`~moe_rules.machines.detection.gpus`, :mod:`~moe_rules.machines.detection.cpu`,
:mod:`~moe_rules.machines.detection.software`.
"""

from __future__ import annotations

from dataclasses import dataclass

from moe_rules.machines.detection.cpu import cpu_model, find_cpu
from moe_rules.machines.detection.finding import Finding
from moe_rules.machines.detection.gpus import Note, find_cuda, find_rocm, find_xpu
from moe_rules.machines.detection.packages import Packages
from moe_rules.machines.detection.software import find_software
from moe_rules.machines.detection.system import System
from moe_rules.machines.machine import Machine, facts_of
from moe_rules.vocabulary.fact_values import FactValue

__all__ = ["Detection", "Finding", "System", "detect", "probe"]

_PLUGINS = "vllm.platform_plugins"


@dataclass(frozen=True)
class Detection:
    """A detected machine, a finding for every fact that was looked for, and what else was seen."""

    machine: Machine
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]


def probe(system: System | None = None) -> Detection:
    """Look at a machine; by default the one this runs on.

    The kind of device is decided as vLLM's ``platforms/__init__.py`` does (TPU, CUDA, ROCm, XPU,
    CPU; a CPU build of vLLM or ``VLLM_TARGET_DEVICE=cpu`` ignores accelerators), except that a
    machine with several kinds is answered for the first, with a note, and that one with none is
    a CPU.
    """
    system = system or System()
    notes: list[str] = []
    platform = _find_platform(system, notes.append)
    order = {fact: i for i, fact in enumerate((*facts_of("platform"), *facts_of("software")))}
    findings = sorted([*platform, *find_software(system)], key=lambda f: order[f.fact])
    known = {finding.fact: finding.value for finding in findings if finding.known}
    machine = Machine(
        name=_name(system, known),
        platform={fact: known[fact] for fact in facts_of("platform") if fact in known},
        software={fact: bool(known[fact]) for fact in facts_of("software") if fact in known},
        source=f"detected: {findings[0].how}",
    )
    return Detection(machine, tuple(findings), tuple(notes))


def detect() -> Machine:
    """Look at this machine; :func:`probe` also says how it knows each fact."""
    return probe().machine


def _name(system: System, facts: dict[str, FactValue]) -> str:
    model = cpu_model(system) if facts["device"] == "cpu" else None
    return str(facts.get("device_name") or facts.get("gfx") or model or facts["device"])


def _find_platform(system: System, note: Note) -> list[Finding]:
    for plugin in system.entry_points(_PLUGINS):
        note(f"vLLM platform plug-in {plugin!r} is installed; it was not asked")
    ignored = _accelerators_ignored(system)
    if ignored:
        note(f"accelerators were not looked for: {ignored}")
        return find_cpu(system)
    found = [_find_tpu(system), *(find(system, note) for find in (find_cuda, find_rocm, find_xpu))]
    found = [findings for findings in found if findings]
    for others in found[1:]:
        note(f"also found: {others[0].value} ({others[0].how})")
    if found:
        return found[0]
    if system.path("/dev/dxg").exists():
        note("this is WSL: an AMD or Intel GPU cannot be seen from here without torch")
    return find_cpu(system)


def _accelerators_ignored(system: System) -> str | None:
    if system.environ.get("VLLM_TARGET_DEVICE", "").lower() == "cpu":
        return "VLLM_TARGET_DEVICE is cpu"
    version = system.distribution_version("vllm")
    if version is not None and "cpu" in version:
        return f"vLLM {version} is a CPU build"
    return None


def _find_tpu(system: System) -> list[Finding]:
    if "proxy" in system.environ.get("JAX_PLATFORMS", "").lower():
        return [Finding("device", "tpu", "JAX_PLATFORMS names the Pathways proxy")]
    if Packages(system).folder("libtpu") is not None:
        return [Finding("device", "tpu", "package libtpu is installed")]
    return []
