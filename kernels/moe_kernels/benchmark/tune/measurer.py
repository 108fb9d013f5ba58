"""What a tuning run needs of a device, and whom it tells how far it has come."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from moe_kernels.benchmark.tune.layers import TuneLayer
from moe_kernels.benchmark.tune.record import Measured


class DeviceError(Exception):
    """What was asked for does not run on the device that is here. The message says why."""


class Progress(Protocol):
    """Is told how far a run has come."""

    def begin(self, what: str, total: int) -> None:
        """Something that takes ``total`` steps begins."""

    def step(self, said: str) -> None:
        """A step ended; ``said`` tells what came of it, if anything."""

    def note(self, said: str) -> None:
        """Something else that a person should know."""


class Measurer(Protocol):
    """Measures layers on one device."""

    @property
    def facts(self) -> Mapping[str, str]:
        """Of the record: "device", "date", and everything else that times depend on."""

    def prepare(
        self, todo: Iterable[tuple[TuneLayer, int]], seconds: float, progress: Progress
    ) -> None:
        """Do what can be done for all layers at once, in a part of ``seconds``."""

    def load(self, layer: TuneLayer, progress: Progress) -> None:
        """Draw a layer's weights in place of the one before."""

    def measure(self, num_tokens: int, seconds: float, progress: Progress) -> list[Measured]:
        """Measure the layer that is loaded in about ``seconds``."""
