"""What a user did wrong, told apart from what is a bug of ours."""

from __future__ import annotations

import json


class UserError(Exception):
    """Wrong input on the command line; ``code`` is the exit code."""

    def __init__(self, message: str, code: int = 2) -> None:
        super().__init__(message)
        self.code = code


class NoMoELayersError(Exception):
    """The model asked about is dense, which is an answer; nothing is wrong."""

    def __init__(self, model: str) -> None:
        super().__init__(f"{model}: the model has no MoE layers")
        self.model = model

    def as_json(self) -> str:
        """The answer where a command would list the layers."""
        return json.dumps({"model": self.model, "layers": [], "notes": ["no MoE layers"]}, indent=2)


def message_of(error: Exception) -> str | None:
    """What to tell the user about an error of the libraries; None if it is a bug."""
    if isinstance(error, OSError) and error.strerror is not None:
        # Streams have no names: what cannot be written then is the output.
        return f"{error.filename or 'the output cannot be written'}: {error.strerror}"
    from moe_rules.conformance.cases import CaseError
    from moe_rules.files.problems import RuleFileError
    from moe_rules.machines.machine import MachineError
    from moe_rules.models.errors import (
        CheckpointRefusedError,
        ConfigValueError,
        UnknownModelError,
    )
    from moe_rules.vocabulary.fact_values import FactError

    if isinstance(error, UnknownModelError) and error.missing:
        return f"{error}\n  state it instead: {_sets(error.missing)}"
    if isinstance(error, RuleFileError):
        return "\n".join(problem.in_an_error for problem in error.problems)
    if isinstance(error, ConfigValueError):
        return str(error)
    if isinstance(error, CheckpointRefusedError):
        return f"vLLM would refuse this checkpoint here: {error}"
    expected = (CaseError, FactError, MachineError, UnknownModelError)
    return str(error) if isinstance(error, expected) else None


def _sets(names: tuple[str, ...]) -> str:
    return " ".join(f"--set {name}=..." for name in names)
