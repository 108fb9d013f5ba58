"""Which MoE kernel runs here, and why: rules as data, decisions that explain themselves.

    >>> from moe_rules import FusedMoEConfig, select_backend
    >>> layer = FusedMoEConfig(
    ...     num_experts=128, experts_per_token=8, hidden_dim=2048, intermediate_size=768,
    ...     routing_method="RenormalizeNaive",
    ... )
    >>> decision = select_backend("unquantized", layer, machine="h100", environ={})
    >>> decision.backend, decision.kernel
    ('TRITON', 'TritonExperts')

Names are imported when they are used; none of them imports torch or triton.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from moe_rules.version import __version__

_HOME = {
    "Candidate": "moe_rules.engine.explanation",
    "Decision": "moe_rules.engine.decision",
    "FactError": "moe_rules.vocabulary.fact_values",
    "FusedMoEConfig": "moe_rules.vocabulary.layer",
    "FusedMoEParallelConfig": "moe_rules.vocabulary.layer",
    "InvalidRequestError": "moe_rules.selectors.errors",
    "Machine": "moe_rules.machines.machine",
    "MachineError": "moe_rules.machines.machine",
    "MoEKernelOracle": "moe_rules.oracles.base",
    "NAMED_KEYS": "moe_rules.vocabulary.quant_keys",
    "NotSupportedError": "moe_rules.selectors.errors",
    "QuantKey": "moe_rules.vocabulary.quant_keys",
    "RuleFileError": "moe_rules.files.problems",
    "Scale": "moe_rules.vocabulary.quant_keys",
    "SelectionError": "moe_rules.selectors.errors",
    "Selector": "moe_rules.selectors.selector",
    "detect": "moe_rules.machines.detection",
    "load_machine": "moe_rules.machines.machine",
    "load_platform": "moe_rules.language.ruleset",
    "select_backend": "moe_rules.selectors.selector",
}

__all__ = [
    "NAMED_KEYS",
    "Candidate",
    "Decision",
    "FactError",
    "FusedMoEConfig",
    "FusedMoEParallelConfig",
    "InvalidRequestError",
    "Machine",
    "MachineError",
    "MoEKernelOracle",
    "NotSupportedError",
    "QuantKey",
    "RuleFileError",
    "Scale",
    "SelectionError",
    "Selector",
    "__version__",
    "detect",
    "load_machine",
    "load_platform",
    "select_backend",
]

if TYPE_CHECKING:
    from moe_rules.engine.decision import Decision
    from moe_rules.engine.explanation import Candidate
    from moe_rules.files.problems import RuleFileError
    from moe_rules.language.ruleset import load_platform
    from moe_rules.machines.detection import detect
    from moe_rules.machines.machine import Machine, MachineError, load_machine
    from moe_rules.oracles.base import MoEKernelOracle
    from moe_rules.selectors.errors import InvalidRequestError, NotSupportedError, SelectionError
    from moe_rules.selectors.selector import Selector, select_backend
    from moe_rules.vocabulary.fact_values import FactError
    from moe_rules.vocabulary.layer import FusedMoEConfig, FusedMoEParallelConfig
    from moe_rules.vocabulary.quant_keys import NAMED_KEYS, QuantKey, Scale


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
