"""The record of what was measured, from which tables of tilings and overlays are made.

It is a file of JSON lines, written as measurements end, so that a run that was cut short can go on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from moe_kernels.tiling.tile_config import LayerConfig, TileConfig
from moe_kernels.tiling.tuned_configs import (
    LayerKey,
    TunedConfig,
    TunedFile,
    file_name,
    forget,
    read,
    write,
)


@dataclass(frozen=True)
class Tiling:
    """The tiling that a search found for one key of the table of tuned configurations."""

    key: LayerKey
    pairs: float
    config: LayerConfig
    heuristic_us: float
    tried: int
    """How many tilings were measured."""


@dataclass(frozen=True)
class Measured:
    """One kernel's time on one layer and number of tokens."""

    layer: str
    num_tokens: int
    backend: str
    kernel: str
    us: float
    tiling: Tiling | None = None

    def to_json(self) -> str:
        """One line of the record."""
        plain = {name: value for name, value in vars(self).items() if name != "tiling"}
        if self.tiling is not None:
            plain["tiling"] = vars(self.tiling)  # named tuples become lists
        return json.dumps(plain)

    @classmethod
    def from_json(cls, line: str) -> Measured:
        """Inverse of :meth:`to_json`. Raises ValueError, KeyError or TypeError for other lines."""
        plain = json.loads(line)
        tiling = plain.pop("tiling", None)
        if tiling is not None:
            tiles = [TileConfig(*tile) for tile in tiling.pop("config")]
            key = LayerKey(*tiling.pop("key"))
            tiling = Tiling(key=key, config=LayerConfig(tiles[0], tiles[1]), **tiling)
        return cls(tiling=tiling, **plain)


class RecordError(ValueError):
    """The record of an earlier run cannot be gone on with; the message says why."""


@dataclass
class Record:
    """What was measured on one device with certain versions; every addition goes to the file.

    ``facts``: "device", "date" and the versions of everything that times depend on.
    """

    path: Path
    facts: Mapping[str, str]
    measured: list[Measured] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path, facts: Mapping[str, str], resume: bool) -> Record:
        """Begin a record, or go on with one of the same device and versions.

        Raises RecordError where that is not possible, and where there is one already and
        ``resume`` is false.
        """
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(facts) + "\n")
            return cls(path, facts)
        if not resume:
            raise RecordError(
                f"{path} is there already: --resume goes on with it, another --out begins anew"
            )
        first, *lines = path.read_text().splitlines() or [""]
        measured = []
        try:
            before = json.loads(first)
            differing = [
                f"{name} {before[name]} then, {value} now"
                for name, value in facts.items()
                if name != "date" and before[name] != value
            ]
            # A run that was killed may have left half a line.
            for i, line in enumerate(lines):
                try:
                    measured.append(Measured.from_json(line))
                except ValueError:
                    if i < len(lines) - 1:
                        raise
        except (KeyError, TypeError, ValueError) as error:
            raise RecordError(f"{path} is no record of measurements: {error!r}") from None
        if differing:
            raise RecordError(f"{path} cannot be gone on with: {'; '.join(differing)}")
        record = cls(path, facts, measured)
        record._write()
        return record

    def _write(self) -> None:
        lines = [json.dumps(self.facts), *(m.to_json() for m in self.measured)]
        self.path.write_text("\n".join(lines) + "\n")

    def add(self, found: Iterable[Measured]) -> None:
        """Note measurements."""
        with self.path.open("a") as file:
            for measured in found:
                self.measured.append(measured)
                file.write(measured.to_json() + "\n")

    def of(self, layer: str) -> dict[int, dict[str, Measured]]:
        """A layer's measurements by number of tokens, ascending, and backend."""
        found: dict[int, dict[str, Measured]] = {}
        for m in sorted(self.measured, key=lambda m: m.num_tokens):
            if m.layer == layer:
                found.setdefault(m.num_tokens, {})[m.backend] = m
        return found

    def write_tables(self, folder: Path, command: str) -> list[Path]:
        """Write the tilings into the files of their schemes, and forget what was read before.

        Layers that a file has from earlier runs with the same versions stay. ``command``: what
        measures them anew. Returns the files.
        """
        layers: dict[LayerKey, dict[float, TunedConfig]] = {}
        for m in self.measured:
            if m.tiling is not None:
                t = m.tiling
                entries = layers.setdefault(t.key, {})
                config = TunedConfig(t.pairs, t.config, m.us, t.heuristic_us)
                # Layers that differ in topk only may meet; the faster time is the less disturbed.
                entries[t.pairs] = min(config, entries.get(t.pairs, config), key=lambda e: e.us)
        paths = []
        for scheme in sorted({key.scheme for key in layers}):
            path = folder / file_name(self.facts["device"], scheme)
            kept = _layers_of(path, self.facts)
            new = {key: tuple(e.values()) for key, e in layers.items() if key.scheme == scheme}
            file = TunedFile(
                device=self.facts["device"],
                scheme=scheme,
                torch=self.facts["torch"],
                triton=self.facts["triton"],
                measured=self.facts["date"],
                command=command,
                layers={**kept, **new},
            )
            write(path, file)
            paths.append(path)
        forget()
        return paths


def _layers_of(path: Path, facts: Mapping[str, str]) -> Mapping[LayerKey, Sequence[TunedConfig]]:
    """The layers of a file that was measured with these versions, if it is there."""
    if not path.is_file():
        return {}
    file = read(path)
    same = (file.torch, file.triton) == (facts["torch"], facts["triton"])
    return file.layers if same else {}
