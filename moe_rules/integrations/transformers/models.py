"""The registration, and what is said of whole models that take the name."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.integrations.finegrained_fp8 import ALL_FP8_EXPERTS_FUNCTIONS
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from moe_rules.integrations.transformers.forward import experts_forward
from moe_rules.integrations.transformers.layer import is_experts
from moe_rules.integrations.transformers.packed import make_packable, release
from moe_rules.integrations.transformers.routers import Choosing, let_choose, make_choosing
from moe_rules.integrations.transformers.saying import NAME, say


@functools.cache
def register() -> None:
    """Make the implementation known to transformers; twice is as once.

    transformers drops the name silently where a model has no use for it, so the methods that hand
    out a model with it are followed by a look at the model.
    """
    for interface in (ALL_EXPERTS_FUNCTIONS, ALL_FP8_EXPERTS_FUNCTIONS):
        interface.register(NAME, experts_forward(interface))
    for name in ("from_pretrained", "_from_config"):
        original = getattr(PreTrainedModel, name).__func__
        setattr(PreTrainedModel, name, classmethod(_looking_at_result(original)))
    PreTrainedModel.set_experts_implementation = _looking_at_model(
        PreTrainedModel.set_experts_implementation
    )


def _looking_at_result(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def made(cls: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(cls, *args, **kwargs)
        model = result[0] if isinstance(result, tuple) else result  # with output_loading_info
        if NAME in _asked(kwargs.get("experts_implementation")) | _configured(model):
            look_at(model)
        return result

    return made


def _looking_at_model(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def set_implementation(self: Any, experts_implementation: Any) -> None:
        original(self, experts_implementation)
        if NAME in _asked(experts_implementation):
            look_at(self)
        for module in self.modules():
            if is_experts(module) and module.config._experts_implementation != NAME:
                release(module)
            elif isinstance(module, Choosing) and not module.is_asked():
                let_choose(module)

    return set_implementation


def _asked(implementation: Any) -> set[Any]:
    """The implementations that an argument names, for all parts of a model or for each."""
    if not isinstance(implementation, dict):
        return {implementation}
    return set().union(*map(_asked, implementation.values()))


def _configured(model: PreTrainedModel) -> set[Any]:
    """The implementations that a model's configuration and those in it name."""
    config = model.config
    parts = [getattr(config, name, None) for name in config.sub_configs]
    return {getattr(part, "_experts_implementation", None) for part in (config, *parts)}


def look_at(model: PreTrainedModel) -> None:
    """Say which experts of ``model`` never call an implementation, or that it has none.

    The others become packable here, and routers beside them choose, for under torch.compile it is
    too late.
    """
    experts = [(name, module) for name, module in model.named_modules() if _holds_experts(module)]
    silent = {type(module).__name__ for _, module in experts if not is_experts(module)}
    name = type(model).__name__
    for _, module in experts:
        if is_experts(module) and module.config._experts_implementation == NAME:
            make_packable(module)
    for module in model.modules():
        make_choosing(module)
    if silent:
        say(
            logging.WARNING,
            f"{NAME}: {name} has experts that compute themselves, whatever implementation is set: "
            f"{', '.join(sorted(silent))}",
        )
    elif not experts:
        say(logging.WARNING, f"{NAME}: {name} has no experts, so that nothing changes")


def _holds_experts(module: nn.Module) -> bool:
    """Whether a module is experts: of a class that calls a function, or is named so."""
    return is_experts(module) or type(module).__name__.endswith("Experts")
