"""Recorded cases: one decision of the reference, as facts and as what it came to."""

from __future__ import annotations

import lzma
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import suppress
from io import BufferedIOBase
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from moe_rules.models.options import option_facts
from moe_rules.selectors.facts import layer_facts
from moe_rules.vocabulary.fact_values import FactValue, parse_value
from moe_rules.vocabulary.facts import FACTS, REQUEST_DEFAULTS
from moe_rules.vocabulary.layer import FusedMoEConfig
from moe_rules.vocabulary.quant_keys import QuantKey
from moe_rules.vocabulary.readings import Unreadable
from moe_rules.vocabulary.switches import switches_from_environ

DEVICES = {"oot": "out_of_tree"}

REFUSALS = ("ValueError", "NotImplementedError")
"""Errors by which the reference refuses; any other type is a crash of its own."""

Facts = Mapping[str, FactValue]
Asked = tuple[str | None, str | None]
"""A backend and the class of its kernel, either of which a case may leave out."""
MAX_READ = 1 << 16
"""Texts of lines that are kept with what was read of them, of each part."""
LineT = TypeVar("LineT")
ReadT = TypeVar("ReadT")


class CaseError(ValueError):
    """A case file cannot be read, or a line of it is no case."""


class Answer(msgspec.Struct, frozen=True, gc=False):
    """What the reference says of a kernel: ``supported`` is None where it was not asked."""

    backend: str | None
    kernel: str | None
    supported: bool | None
    reason: str | None = None


class Came(msgspec.Struct, frozen=True, gc=False, eq=False, tag_field="outcome"):
    """What the reference came to: every kernel's answer, and the order of backends if known.

    What was read once is one object, compared by identity.
    """

    tried: list[Answer]
    not_reached: list[Answer]
    priority: list[str] | None

    @property
    def crashed(self) -> bool:
        """The reference ended with an error that is no refusal."""
        return False


class Selected(Came, frozen=True, gc=False, eq=False, tag="selected"):
    """It selected; ``kernel`` is None where it binds none."""

    backend: str
    kernel: str | None


class Failed(Came, frozen=True, gc=False, eq=False, tag="error"):
    """It raised."""

    error_type: str
    error_message: str

    @property
    def crashed(self) -> bool:
        """Whether it is another error than those by which it refuses."""
        return self.error_type not in REFUSALS


Expected = Selected | Failed


class Line(msgspec.Struct, frozen=True, gc=False):
    """One line of a case file. What many lines have alike is left as text, to be read once."""

    id: str
    oracle: str
    platform: msgspec.Raw
    software: msgspec.Raw
    env: msgspec.Raw
    runtime: msgspec.Raw
    moe: msgspec.Raw
    weight: msgspec.Raw
    activation: msgspec.Raw
    options: msgspec.Raw
    expect: msgspec.Raw


_LINE: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)
_NO_CASE = (
    *(AttributeError, IndexError, TypeError, ValueError),
    *(msgspec.MsgspecError, RecursionError),
)
"""What reading a part of a line may raise."""


def _gzip() -> tuple[Any, Any]:
    """What opens gzip files, and what it raises of damaged ones besides OSError.

    isal's reads in half the time; it is not there for every machine.
    """
    try:
        from isal import igzip, isal_zlib
    except ImportError:
        import gzip
        import zlib

        return gzip.open, zlib.error
    return igzip.open, isal_zlib.error


_open_gzip, _GzipError = _gzip()
OPENERS: Mapping[str, Callable[[Path], BufferedIOBase]] = {".gz": _open_gzip, ".xz": lzma.open}
"""What opens a file of cases, by how its name ends after ``.jsonl``."""
NAMES = " or ".join(f"*.jsonl{ending}" for ending in OPENERS)


def files_below(folder: Path, pattern: str = "**") -> list[Path]:
    """The files of cases in a folder, and in those that the pattern names, in order."""
    return sorted(f for ending in OPENERS for f in folder.glob(f"{pattern}/*.jsonl{ending}"))


def case_files(paths: Iterable[Path]) -> list[Path]:
    """The files of cases at the paths, those of folders in order.

    Raises CaseError for a path that does not exist or holds none.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = files_below(path)
            if not found:
                raise CaseError(f"{path} holds no {NAMES} file")
            files.extend(found)
        elif path.is_file():
            files.append(path)
        else:
            raise CaseError(f"there is no file or folder {path}")
    return files


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The lines of one file with their numbers. Raises CaseError for what is no JSON object."""
    return _decoded(path, msgspec.json.Decoder(dict[str, Any]))


def read_cases(path: Path, oracles: frozenset[str] = frozenset()) -> Iterator[Case]:
    """The cases of one file, of some oracles if any are given. Raises CaseError."""
    for number, line in _decoded(path, _LINE):
        if not oracles or line.oracle in oracles:
            yield Case.of(line, f"{path}:{number}")


def _decoded(path: Path, decoder: msgspec.json.Decoder[LineT]) -> Iterator[tuple[int, LineT]]:
    number = 0
    opened = OPENERS.get(path.suffix, _open_gzip)
    try:
        with opened(path) as lines:
            for number, line in enumerate(lines, start=1):
                yield number, decoder.decode(line)
    except (OSError, EOFError, lzma.LZMAError, _GzipError) as error:
        kind = "an xz" if path.suffix == ".xz" else "a gzip"
        raise CaseError(f"{path}:{number + 1}: not {kind} file of JSON lines: {error}") from None
    except msgspec.ValidationError as error:
        raise CaseError(f"{path}:{number}: not a case: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CaseError(f"{path}:{number}: not JSON: {error}") from None
    if number == 0:  # as what is left of one that could not be written
        raise CaseError(f"{path}: the file has no line")


def platform_facts(platform: Mapping[str, Any]) -> dict[str, FactValue]:
    """The platform facts of a case; what another kind of device cannot have is filled in."""
    kind = platform["kind"]
    capability = platform.get("capability")
    return {
        "device": DEVICES.get(kind, kind),
        "device_name": platform.get("device"),
        "compute_capability": None if capability is None else (capability[0], capability[1]),
        "gfx": platform.get("gcn_arch"),
        "cpu_arch": platform.get("arch"),
        "os": platform.get("os", "linux"),
        "zen": platform.get("zen", False),
        "amx_tile": platform.get("amx_tile", False),
        "amx_fp8": platform.get("amx_fp8", False),
    }


def recorded_key(data: Mapping[str, Any] | None) -> QuantKey | None:
    """A quantization key of a case or record."""
    return None if data is None else QuantKey.from_dict(dict(data))


_known: set[tuple[str, FactValue, type]] = set()
"""Values of facts that were met, and are of the vocabulary as they are."""


def _of_vocabulary(facts: Facts) -> Facts:
    """Facts with values that they may have. Raises FactError for any other.

    What the vocabulary does not know is left as it is: no rule asks for it.
    """
    with suppress(TypeError):  # a value that no fact has
        if _known.issuperset(zip(facts, facts.values(), map(type, facts.values()), strict=True)):
            return facts
    found: dict[str, FactValue] = {}
    for name, value in facts.items():
        found[name] = value if name not in FACTS else parse_value(FACTS[name], value)
        if (
            type(found[name]) is type(value)
            and found[name] == value
            and isinstance(value, Hashable)
        ):
            if len(_known) >= MAX_READ:
                _known.clear()
            _known.add((name, value, type(value)))
    return found


def _platform(platform: Mapping[str, Any]) -> tuple[str, dict[str, FactValue]]:
    facts = platform_facts(platform)
    device = facts.pop("device")  # a new kind is a case, on which the rules have no answer
    return platform["name"], {"device": device, **_of_vocabulary(facts)}


def _switches(environ: Mapping[str, str]) -> tuple[Facts, Facts]:
    """The switches, with what else a case does not say, and those that are unreadable."""
    switches = {**REQUEST_DEFAULTS, **switches_from_environ(environ)}
    unreadable = {n: v for n, v in switches.items() if isinstance(v, Unreadable)}
    return {n: v for n, v in switches.items() if n not in unreadable}, unreadable


def _runtime(runtime: Mapping[str, Any]) -> Facts:
    facts = {
        "model_type": None if runtime.get("no_model_config") else runtime.get("model_type"),
        "moe_activation_override": recorded_key(runtime.get("moe_activation_override")),
        "enable_dbo": runtime.get("enable_dbo", False),
        "engine_enable_eplb": runtime.get("enable_eplb", False),
        "weight_transfer": runtime.get("weight_transfer", False),
    }
    return _of_vocabulary(facts)


def _layer(moe: dict[str, Any]) -> Facts:
    return layer_facts(FusedMoEConfig.from_dict(moe))


def _options(options: Mapping[str, Any]) -> Facts:
    return _of_vocabulary(option_facts(options))


class _ReadOnce(dict[bytes, ReadT]):
    """What is read of one part of a line, for all lines that have the same text there."""

    def __init__(
        self,
        name: str,
        read: Callable[[Any], ReadT],
        decode: Callable[[bytes], Any] = msgspec.json.decode,
    ) -> None:
        super().__init__()
        self._name = name
        self._read = read
        self._decode = decode

    def __missing__(self, text: bytes) -> ReadT:
        try:
            found = self._read(self._decode(text))
        except KeyError as error:
            raise CaseError(f"{self._name}: {error} is missing or unknown") from None
        except _NO_CASE as error:
            raise CaseError(f"{self._name}: {error}") from None
        if len(self) >= MAX_READ:
            self.clear()
        self[text] = found
        return found


_PLATFORM = _ReadOnce("platform", _platform)
_SOFTWARE = _ReadOnce("software", _of_vocabulary)
_SWITCHES = _ReadOnce("env", _switches)
_RUNTIME = _ReadOnce("runtime", _runtime)
_LAYER = _ReadOnce("moe", _layer)
_WEIGHT = _ReadOnce("weight", lambda key: {"weight_key": recorded_key(key)})
_ACTIVATION = _ReadOnce("activation", lambda key: {"activation_key": recorded_key(key)})
_OPTIONS = _ReadOnce("options", _options)
_EXPECTED: _ReadOnce[Expected] = _ReadOnce(
    "expect", lambda came: came, msgspec.json.Decoder(Expected).decode
)


class Parts(NamedTuple):
    """The facts of a deployment as a case groups them."""

    platform: Facts
    software: Facts
    switches: Facts
    runtime: Facts
    layer: Facts
    weight: Facts
    activation: Facts
    options: Facts


class Case(msgspec.Struct, frozen=True, eq=False):
    """One recorded decision: what was asked, as facts, and what the reference came to.

    ``unreadable`` are switches whose text the reference cannot read.
    """

    id: str
    oracle: str
    platform_name: str
    parts: Parts
    unreadable: Facts
    expect: Expected

    @classmethod
    def of(cls, line: Line, where: str) -> Case:
        """What a line says. Raises CaseError, which names the place ``where``."""
        try:
            platform_name, platform = _PLATFORM[bytes(line.platform)]
            switches, unreadable = _SWITCHES[bytes(line.env)]
            parts = Parts(
                platform,
                _SOFTWARE[bytes(line.software)],
                switches,
                _RUNTIME[bytes(line.runtime)],
                _LAYER[bytes(line.moe)],
                _WEIGHT[bytes(line.weight)],
                _ACTIVATION[bytes(line.activation)],
                _OPTIONS[bytes(line.options)],
            )
            expect = _EXPECTED[bytes(line.expect)]
        except CaseError as error:
            raise CaseError(f"{where}: not a case: {error}") from None
        return cls(line.id, line.oracle, platform_name, parts, unreadable, expect)

    @classmethod
    def parse(cls, data: Mapping[str, Any], where: str) -> Case:
        """From a line's object. Raises CaseError, which names the place ``where``."""
        try:
            line = _LINE.decode(msgspec.json.encode(data))
        except msgspec.ValidationError as error:
            raise CaseError(f"{where}: not a case: {error}") from None
        return cls.of(line, where)

    @property
    def constants(self) -> dict[str, FactValue]:
        """What a selector is made for: the platform, and switches that are unreadable."""
        return {**self.parts.platform, **self.unreadable}

    @property
    def request(self) -> dict[str, FactValue]:
        """All else, with what holds where a case says nothing."""
        parts = self.parts
        return {
            **parts.switches,
            **parts.software,
            **parts.runtime,
            **parts.layer,
            **parts.weight,
            **parts.activation,
            **parts.options,
        }

    @property
    def facts(self) -> dict[str, FactValue]:
        """Everything that is known of the deployment."""
        return {**self.constants, **self.request}

    @property
    def reference_crashed(self) -> bool:
        """The reference ended with an error that is no refusal."""
        return self.expect.crashed
