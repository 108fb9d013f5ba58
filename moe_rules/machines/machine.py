"""The machine a decision is for: its platform and software facts, detected, recorded or named.

A machine is data. :func:`moe_rules.machines.detection.detect` looks at this one,
:meth:`Machine.to_yaml` records it, and :func:`load_machine` reads a record back or takes one of
the machines named in ``rules/machines.yaml``, so that any computer can answer for any other.
Nothing here imports torch.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_rules.files.packaged import packaged_rules
from moe_rules.files.problems import KeyPath, Problem, RuleFileError
from moe_rules.files.stored import stored
from moe_rules.vocabulary.fact_values import (
    Fact,
    FactError,
    FactValue,
    did_you_mean,
    plain,
    typed_value,
)
from moe_rules.vocabulary.facts import FACTS
from moe_rules.vocabulary.record import Record

if TYPE_CHECKING:
    from moe_rules.files.yaml_source import YamlSource

DEVICE_OF = {
    "compute_capability": "cuda",
    "gfx": "rocm",
    "cpu_arch": "cpu",
    "zen": "cpu",
    "amx_tile": "cpu",
    "amx_fp8": "cpu",
}
"""The platform facts that only one kind of device has."""

_MACHINES_FILE = "machines.yaml"


class MachineError(ValueError):
    """A machine cannot be described, read or found. One line per problem, also in ``problems``."""

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


@dataclass(frozen=True)
class Machine:
    """What is known of one machine. A fact that is absent is unknown, never false.

    ``platform`` and ``software`` map fact names of those two groups of
    :data:`moe_rules.vocabulary.facts.FACTS` to typed values (``compute_capability`` is a tuple of
    two ints). ``source`` says where the facts come from. Do not change the mappings; machines are
    compared and hashed by value.

    Raises :class:`MachineError` for an unknown fact, a value outside its domain, a missing
    ``device``, or a fact of another kind of device.
    """

    name: str
    platform: Mapping[str, FactValue]
    software: Mapping[str, bool]
    source: str

    def __post_init__(self) -> None:
        groups = {"platform": self.platform, "software": self.software}
        _refuse(_record_problems(self.__dict__))
        for group, facts in groups.items():
            typed = {name: _fact_value(group, name, value) for name, value in facts.items()}
            object.__setattr__(self, group, typed)

    def __hash__(self) -> int:
        facts = (frozenset(self.platform.items()), frozenset(self.software.items()))
        return hash((self.name, facts, self.source))

    @property
    def device(self) -> str:
        """The kind of device: "cuda", "rocm", "xpu", "cpu", "tpu", "out_of_tree", ..."""
        return str(self.platform["device"])

    def facts(self) -> dict[str, FactValue]:
        """Platform and software facts as one mapping.

        What another kind of device cannot have is filled in: none, or false for a CPU feature.
        """
        return {**foreign_facts(self.device), **self.platform, **self.software}

    def unknown(self) -> list[str]:
        """The software facts nobody could tell, in the vocabulary's order."""
        return [name for name in facts_of("software") if name not in self.software]

    def with_software(self, **facts: bool | None) -> Machine:
        """Return this machine with some software facts changed; None makes a fact unknown.

        Raises :class:`MachineError` for an unknown fact or a value that is not a bool.
        """
        try:
            for name in facts:
                _known_fact("software", name)
        except FactError as error:
            raise MachineError(str(error)) from None
        changed = {**self.software, **facts}
        known = {name: value for name, value in changed.items() if value is not None}
        return replace(self, software=known)

    def with_preset(self, preset: str) -> Machine:
        """Return this machine with a preset of ``rules/machines.yaml``: "full", "bare".

        Raises :class:`MachineError` for an unknown preset.
        """
        return replace(self, software=software_preset(preset, self.device))

    def to_dict(self) -> dict[str, Any]:
        """Plain, JSON-serialisable form; versions are text ("9.0")."""
        return {
            "name": self.name,
            "source": self.source,
            "platform": {name: plain(value) for name, value in self.platform.items()},
            "software": dict(self.software),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Machine:
        """Inverse of :meth:`to_dict`. Raises :class:`MachineError` naming every problem."""
        _refuse(_record_problems(data))
        return cls(
            name=data["name"],
            platform=data["platform"],
            software=data.get("software", {}),
            source=data.get("source", "unspecified"),
        )

    def to_yaml(self) -> str:
        """The machine as a file that :func:`load_machine` reads. Unknown facts are listed."""
        lines = ["# A machine for moe-rules: edit the facts freely. A fact left out is unknown."]
        if self.unknown():
            lines.append(f"# Unknown software facts: {', '.join(self.unknown())}")
        import yaml

        record = yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)
        return "\n".join(lines) + "\n" + record


class NamedMachine(Record):
    """One entry of ``rules/machines.yaml``: a product and its platform facts."""

    name: str
    product: str
    aliases: tuple[str, ...]
    platform: Mapping[str, FactValue]
    source: str

    def machine(self, preset: str = "full") -> Machine:
        """The machine with the software of ``preset``. Raises :class:`MachineError`."""
        software = software_preset(preset, str(self.platform["device"]))
        source = f"named machine {self.name!r} ({self.product}), {preset} software"
        return Machine(self.name, self.platform, software, source)


def foreign_facts(device: str) -> dict[str, FactValue]:
    """What a kind of device has for the facts of others: none, or false for a CPU feature."""
    return {
        name: None if FACTS[name].nullable else False
        for name, owner in DEVICE_OF.items()
        if owner != device
    }


def facts_of(group: str) -> tuple[str, ...]:
    """The names of the facts of ``group`` ("platform", "software"), in the vocabulary's order."""
    return tuple(name for name, fact in FACTS.items() if fact.group == group)


def load_machine(name_or_path: str | os.PathLike[str], preset: str | None = None) -> Machine:
    """A named machine or a recorded one.

    Text with a path separator or ending in ``.yaml``, ``.yml`` or ``.json`` is a path; any other
    is a name or alias of ``rules/machines.yaml`` (case, "-", "_" and spaces do not matter), or
    else an existing file. ``preset`` replaces the software: by default a named machine has the
    "full" preset and a recorded one what it recorded.

    Raises :class:`MachineError`: no such name (with the nearest ones), or what is wrong with the
    file, with ``file:line:column``. TypeError for what is neither name nor path.
    """
    if not isinstance(name_or_path, str | os.PathLike):
        raise TypeError(
            f"a machine is a Machine, the name of one or a recorded file, got {name_or_path!r}"
        )
    text = os.fspath(name_or_path)
    looks_like_path = os.sep in text or text.lower().endswith((".yaml", ".yml", ".json"))
    named = None if looks_like_path else _by_name().get(normalized_name(text))
    if named is not None:
        return named.machine(preset or "full")
    if not looks_like_path and not os.path.exists(text):
        raise MachineError(_no_such_name(text))
    machine = _read_record(text)
    return machine.with_preset(preset) if preset else machine


def named_machines() -> dict[str, NamedMachine]:
    """Every machine of ``rules/machines.yaml`` by its name, in file order."""
    return dict(_table()[0])


def software_preset(preset: str, device: str) -> dict[str, bool]:
    """All software facts as ``preset`` gives them to a kind of device.

    Raises :class:`MachineError` for an unknown preset.
    """
    presets = _table()[1]
    if preset not in presets:
        raise MachineError(
            f"unknown software preset {preset!r}{did_you_mean(preset, presets)} "
            f"(one of {', '.join(presets)})"
        )
    present = presets[preset].get(device, ())
    return {name: name in present for name in facts_of("software")}


def _known_fact(group: str, name: object) -> Fact:
    fact = FACTS.get(str(name))
    if fact is None or fact.group != group:
        raise FactError(f"unknown {group} fact {name!r}{did_you_mean(str(name), facts_of(group))}")
    return fact


def _fact_value(group: str, name: object, raw: object) -> Any:
    fact = _known_fact(group, name)
    try:
        return typed_value(fact, raw)
    except FactError as error:
        hint = f'; write it in quotes: "{raw}"' if isinstance(raw, float) else ""
        raise FactError(f"{error}{hint}") from None


def _device_problems(platform: Mapping[str, object]) -> list[tuple[KeyPath, str]]:
    if "device" not in platform:
        return [(("platform",), f"no device is given; it is {FACTS['device'].domain}")]
    return [
        (
            ("platform", name),
            f"{name} is a fact of {device} devices, this one is {platform['device']}",
        )
        for name, device in DEVICE_OF.items()
        if platform["device"] != device and platform.get(name) not in (None, False)
    ]


def _refuse(problems: Iterable[tuple[KeyPath, str]]) -> None:
    """Raise MachineError for problems, if there are any."""
    said = [f"{'.'.join(map(str, path)) or 'machine'}: {text}" for path, text in problems]
    if said:
        raise MachineError(*said)


def _record_problems(data: object) -> list[tuple[KeyPath, str]]:
    """Everything wrong with the plain form of a machine, by the path of the offending value."""
    keys = {"name": str, "source": str, "platform": Mapping, "software": Mapping}
    if not isinstance(data, Mapping):
        return [((), f"a machine is a mapping of {', '.join(keys)}, not {type(data).__name__}")]
    problems: list[tuple[KeyPath, str]] = [
        ((key,), f"unknown key {key!r}{did_you_mean(str(key), keys)}")
        for key in data
        if key not in keys
    ]
    problems += [((), f"{key} is missing") for key in ("name", "platform") if key not in data]
    for key, kind in keys.items():
        if key in data and not isinstance(data[key], kind):
            expected = "text" if kind is str else "a mapping of facts"
            problems.append(((key,), f"{key} must be {expected}, not {data[key]!r}"))
        elif key in data and kind is Mapping:
            problems += _group_problems(key, data[key])
    return problems


def _group_problems(group: str, facts: Mapping[str, object]) -> list[tuple[KeyPath, str]]:
    problems: list[tuple[KeyPath, str]] = []
    for name, raw in facts.items():
        try:
            _fact_value(group, name, raw)
        except FactError as error:
            problems.append(((group, name), str(error)))
    if group == "platform" and not problems:
        problems += _device_problems(facts)
    return problems


def _read(path: str | Path) -> YamlSource:
    from moe_rules.files.yaml_source import read_yaml

    try:
        return read_yaml(path)
    except RuleFileError as error:
        raise MachineError(*(one.in_an_error for one in error.problems)) from None


def record_problems(source: YamlSource) -> list[Problem]:
    """Everything that is wrong with a recorded machine, and where."""
    # At the key: a mapping's own place is its first line, which is not where it went wrong.
    return [
        Problem("bad-machine", text, source.key_at(place))
        for place, text in _record_problems(source.data)
    ]


def _read_record(path: str) -> Machine:
    source = _read(path)
    problems = record_problems(source)
    if problems:
        raise MachineError(*(one.in_an_error for one in RuleFileError(problems).problems))
    return Machine.from_dict({"source": f"recorded in {path}", **source.data})


def normalized_name(name: str) -> str:
    """A machine's name as names are compared: without case, "-", "_" and spaces."""
    return "".join(character for character in name.casefold() if character not in "-_ ")


def _no_such_name(text: str) -> str:
    import difflib

    normalized = normalized_name(text).partition(":")[0]  # engines say cuda:0
    devices = [name for name, one in _table()[0].items() if one.platform["device"] == normalized]
    if devices:
        return (
            f"no machine is named {text!r}, which is a kind of device; "
            f"machines of it: {', '.join(devices)}"
        )
    scores = {
        known: difflib.SequenceMatcher(None, normalized, known).ratio() for known in _by_name()
    }
    close = sorted((n for n in scores if scores[n] >= 0.5), key=lambda n: -scores[n])
    names = list(dict.fromkeys(_by_name()[known].name for known in close))[:4]
    nearest = f"nearest: {', '.join(names)}" if names else f"one of {', '.join(_table()[0])}"
    return f"no machine is named {text!r} and there is no such file; {nearest}"


def machines_file() -> Path:
    """Where ``machines.yaml`` is: in the installed package, or beside it in a checkout."""
    return packaged_rules() / _MACHINES_FILE


@functools.cache
def _table() -> tuple[dict[str, NamedMachine], dict[str, dict[str, tuple[str, ...]]]]:
    """The named machines and the software presets. The file's form is tested, not checked here."""
    file = machines_file()
    data = stored("machines", [file], ("files",), lambda: _read(file).data)
    machines = {}
    for name, entry in data["machines"].items():
        platform = {k: _fact_value("platform", k, v) for k, v in entry["platform"].items()}
        machines[name] = NamedMachine(
            name=name,
            product=entry["product"],
            aliases=tuple(entry.get("aliases", ())),
            platform=platform,
            source=entry["source"],
        )
    presets = {
        preset: {device: tuple(facts) for device, facts in devices.items()}
        for preset, devices in data["software"].items()
    }
    return machines, presets


@functools.cache
def _by_name() -> dict[str, NamedMachine]:
    return {
        normalized_name(name): machine
        for machine in _table()[0].values()
        for name in (machine.name, *machine.aliases)
    }
