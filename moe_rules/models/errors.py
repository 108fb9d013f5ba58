"""What can go wrong while a checkpoint's configuration is read into layer facts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from moe_rules.vocabulary.layer import FusedMoEConfig


class CheckpointRefusedError(ValueError):
    """vLLM would not run this checkpoint here: on this platform, or with this deployment.

    ``stage`` says when: "engine_config" (before any layer exists), "model" (while the model is
    built) or "quant_method" (while the layer's quantization method is chosen). ``layer`` holds the
    facts of the layer that was refused, where they were known by then.
    """

    layer: FusedMoEConfig | None = None

    def __init__(self, reason: str, stage: str = "engine_config") -> None:
        super().__init__(reason)
        self.reason = reason
        self.stage = stage


class ConfigValueError(CheckpointRefusedError):
    """A value of a checkpoint's file is not of the type, or in the range, that is read there.

    ``where`` is the path to it, as ``config.json: quantization_config.group_size``.
    """

    def __init__(self, where: str, expected: str, seen: str, stage: str = "engine_config") -> None:
        super().__init__(f"{where} must be {expected}, not {seen}", stage)
        self.where = where
        self.said = expected, seen

    def at(self, where: str) -> ConfigValueError:
        """The same of a value whose place is written so."""
        return ConfigValueError(where, *self.said, self.stage)


class PatternError(ValueError):
    """Text of a checkpoint's file that is no regular expression; the message says where."""


@contextmanager
def reading(what: str, stage: str = "engine_config") -> Iterator[None]:
    """Turn what no check of a value foresaw, met inside, into a CheckpointRefusedError.

    Values are read with their types (:mod:`moe_rules.models.typed`), so this is the last resort:
    its message has no path.
    """
    try:
        yield
    except (TypeError, AttributeError, KeyError, IndexError, PatternError) as error:
        detail = f"{type(error).__name__}: {error}"
        raise CheckpointRefusedError(f"{what} is malformed ({detail})", stage) from error


class UnknownModelError(ValueError):
    """The tables do not know this architecture.

    ``missing`` names the facts that ``--set fact=value`` would have to supply instead.
    """

    def __init__(self, message: str, missing: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.missing = missing
