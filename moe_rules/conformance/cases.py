"""Recorded cases: one decision of the reference, as facts and as what it came to."""

from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from moe_rules.models.options import option_facts
from moe_rules.selectors.selector import layer_facts
from moe_rules.vocabulary.fact_values import FactValue
from moe_rules.vocabulary.layer import FusedMoEConfig
from moe_rules.vocabulary.quant_keys import QuantKey
from moe_rules.vocabulary.readings import Unreadable
from moe_rules.vocabulary.switches import switches_from_environ

DEVICES = {"oot": "out_of_tree"}

REFUSALS = ("ValueError", "NotImplementedError")
"""Errors by which the reference refuses; any other type is a crash of its own."""


class CaseError(ValueError):
    """A case file cannot be read, or a line of it is no case."""


OPENERS: Mapping[str, Callable[..., TextIO]] = {".gz": gzip.open, ".xz": lzma.open}
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
    number = 0
    opened = OPENERS.get(path.suffix, gzip.open)
    try:
        with opened(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                data = json.loads(line)
                if not isinstance(data, dict):
                    raise CaseError(f"{path}:{number}: a case is a JSON object")
                yield number, data
    except (OSError, EOFError, UnicodeDecodeError, lzma.LZMAError) as error:
        kind = "an xz" if path.suffix == ".xz" else "a gzip"
        raise CaseError(f"{path}:{number + 1}: not {kind} file of JSON lines: {error}") from None
    except json.JSONDecodeError as error:
        raise CaseError(f"{path}:{number}: not JSON: {error}") from None


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


def request_facts(case: Mapping[str, Any]) -> dict[str, FactValue]:
    """Everything of a case but its platform."""
    runtime, options = case["runtime"], dict(case["options"])
    facts: dict[str, FactValue] = {
        **case["software"],
        **switches_from_environ(case["env"]),
        **layer_facts(FusedMoEConfig.from_dict(case["moe"])),
        "weight_key": recorded_key(case["weight"]),
        "activation_key": recorded_key(case["activation"]),
        "model_type": None if runtime.get("no_model_config") else runtime.get("model_type"),
        "moe_activation_override": recorded_key(runtime.get("moe_activation_override")),
        "enable_dbo": runtime.get("enable_dbo", False),
        "engine_enable_eplb": runtime.get("enable_eplb", False),
        "weight_transfer": runtime.get("weight_transfer", False),
    }
    return {**facts, **option_facts(options)}


def recorded_key(data: Mapping[str, Any] | None) -> QuantKey | None:
    """A quantization key of a case or record."""
    return None if data is None else QuantKey.from_dict(dict(data))


_EXPECTED = ("outcome", "tried", "not_reached", "priority")
_OUTCOMES = {"selected": ("backend", "kernel"), "error": ("error_type", "error_message")}


@dataclass(frozen=True, slots=True)
class Case:
    """One recorded decision: what was asked, as facts, and what the reference came to.

    ``constants`` are what a selector is made for: the platform, and switches that are unreadable.
    """

    id: str
    oracle: str
    platform_name: str
    constants: Mapping[str, FactValue]
    request: Mapping[str, FactValue]
    expect: Mapping[str, Any]

    @classmethod
    def parse(cls, data: Mapping[str, Any], where: str) -> Case:
        """From a line's object. Raises CaseError, which names the place ``where``."""
        try:
            expect = data["expect"]
            for key in (*_EXPECTED, *_OUTCOMES[expect["outcome"]]):
                expect[key]
            for answer in (*expect["tried"], *expect["not_reached"]):
                answer["backend"], answer["kernel"], answer["supported"]
            request = request_facts(data)
            unreadable = {n: v for n, v in request.items() if isinstance(v, Unreadable)}
            return cls(
                id=data["id"],
                oracle=data["oracle"],
                platform_name=data["platform"]["name"],
                constants={**platform_facts(data["platform"]), **unreadable},
                request={n: v for n, v in request.items() if n not in unreadable},
                expect=expect,
            )
        except KeyError as error:
            raise CaseError(f"{where}: not a case: {error} is missing or unknown") from None
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            raise CaseError(f"{where}: not a case: {error}") from None

    @property
    def reference_crashed(self) -> bool:
        """The reference ended with an error that is no refusal."""
        expect = self.expect
        return expect["outcome"] == "error" and expect["error_type"] not in REFUSALS
