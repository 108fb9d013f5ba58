"""The CPU: architecture, operating system, AMX, and whether vLLM would use its Zen platform."""

from __future__ import annotations

from moe_rules.machines.detection.finding import Finding
from moe_rules.machines.detection.packages import Packages
from moe_rules.machines.detection.system import System

# Prefixes of what uname reports, as vLLM's platforms/interface.py reads them.
_ARCHITECTURES = {
    "x86_64": "x86",
    "amd64": "x86",
    "i386": "x86",
    "i686": "x86",
    "arm": "arm",
    "aarch": "arm",
    "ppc": "powerpc",
    "s390x": "s390x",
    "riscv": "riscv",
}

# Linux prints no flag for AMX-FP8 (only KVM knows the bit), so it is false only for the
# processors known to lack it: Sapphire, Emerald and Granite Rapids (X and D).
_AMX_WITHOUT_FP8 = {("6", "143"), ("6", "207"), ("6", "173"), ("6", "174")}


def find_cpu(system: System) -> list[Finding]:
    """The facts of this machine as a CPU platform."""
    findings = [Finding("device", "cpu", "no accelerator is used")]
    machine = system.machine.lower()
    arch = next((a for prefix, a in _ARCHITECTURES.items() if machine.startswith(prefix)), None)
    if arch is None:
        findings.append(Finding.unknown("cpu_arch", f"no architecture is known as {machine!r}"))
    else:
        findings.append(Finding("cpu_arch", arch, f"uname: {system.machine}"))
    os_name = "linux" if system.sys_platform.startswith("linux") else system.sys_platform
    if os_name in ("linux", "darwin"):
        findings.append(Finding("os", os_name, f"sys.platform: {system.sys_platform}"))
    else:
        findings.append(Finding.unknown("os", f"{os_name!r} is neither linux nor darwin"))
    if arch is not None and arch != "x86":
        how = f"{arch} CPUs have no AMX and are no Zen"
        return findings + [Finding(fact, False, how) for fact in ("zen", "amx_tile", "amx_fp8")]
    return findings + _x86_features(system)


def cpu_model(system: System) -> str | None:
    """The processor's name as the kernel prints it."""
    return _first_processor(system).get("model name")


def _first_processor(system: System) -> dict[str, str]:
    block = (system.read("/proc/cpuinfo") or "").split("\n\n")[0]
    fields = (line.partition(":") for line in block.splitlines())
    return {key.strip(): value.strip() for key, _, value in fields}


def _x86_features(system: System) -> list[Finding]:
    if system.sys_platform == "darwin":
        how = "no Mac has an x86 CPU with AMX, or an AMD one"
        return [Finding(fact, False, how) for fact in ("zen", "amx_tile", "amx_fp8")]
    processor = _first_processor(system)
    flags = processor.get("flags", "").split()
    if not flags:
        how = "/proc/cpuinfo lists no flags"
        return [Finding.unknown(fact, how) for fact in ("zen", "amx_tile", "amx_fp8")]
    return [_zen(system, processor, flags), *_amx(processor, flags)]


def _zen(system: System, processor: dict[str, str], flags: list[str]) -> Finding:
    if processor.get("vendor_id") != "AuthenticAMD":
        return Finding("zen", False, f"vendor {processor.get('vendor_id')}")
    if not any(flag.startswith("avx512") for flag in flags):
        return Finding("zen", False, "an AMD CPU without AVX-512")
    if Packages(system).folder("zentorch") is None:
        return Finding("zen", False, "an AMD CPU with AVX-512, but zentorch is not installed")
    return Finding("zen", True, "AMD, AVX-512, zentorch is installed (loading it was not tried)")


def _amx(processor: dict[str, str], flags: list[str]) -> list[Finding]:
    if "amx_tile" not in flags:
        how = "/proc/cpuinfo: no flag amx_tile"
        return [Finding("amx_tile", False, how), Finding("amx_fp8", False, how)]
    tile = Finding("amx_tile", True, "/proc/cpuinfo: flag amx_tile")
    model = (processor.get("cpu family", ""), processor.get("model", ""))
    if "amx_fp8" in flags:
        return [tile, Finding("amx_fp8", True, "/proc/cpuinfo: flag amx_fp8")]
    if model in _AMX_WITHOUT_FP8:
        how = f"CPU family {model[0]} model {model[1]} has AMX without FP8"
        return [tile, Finding("amx_fp8", False, how)]
    how = "Linux prints no flag for it, and the CPU model is not one known to lack it"
    return [tile, Finding.unknown("amx_fp8", how)]
