"""vLLM's live objects as facts, and names of the tables as vLLM's objects.

Everything that knows how vLLM 0.33's classes look is here: a layer's FusedMoEConfig, QuantKey,
the ``quant_config`` of integer checkpoints, the current VllmConfig; and, back, members of its
Enums, kernel classes and keys. Attributes that another version lacks have this package's default.

vLLM is imported only by functions that give one of its objects back; whoever asks for one, holds
others already. Which class an object has is told by its name and module, so that nothing is
imported to find that it is not vLLM's.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Callable, Mapping
from enum import Enum
from operator import attrgetter
from typing import Any, NamedTuple

from moe_rules.oracles.backends import member
from moe_rules.vocabulary.fact_values import FactValue
from moe_rules.vocabulary.layer import (
    LAYER_FIELDS,
    PARALLEL_FIELDS,
    FusedMoEConfig,
    dtype_name,
    typed_facts,
)
from moe_rules.vocabulary.quant_keys import NAMED_KEYS, QuantKey, Scale

FUSED_MOE = "vllm.model_executor.layers.fused_moe"
QUANT_KEYS = "vllm.model_executor.layers.quantization.utils.quant_utils"

ENUM_MODULES = {
    "UnquantizedMoeBackend": "unquantized",
    "Fp8MoeBackend": "fp8",
    "Int8MoeBackend": "int8",
    "WNA16MoEBackend": "int_wna16",
    "Mxfp4MoeBackend": "mxfp4",
    "NvFp4MoeBackend": "nvfp4",
    "W4A8MoeBackend": "w4a8",
    "W4A8Int8MoeBackend": "w4a8_int8",
}
"""The module below vLLM's ``fused_moe.oracle`` that has the Enum of a name."""


class Checkpoint(NamedTuple):
    """What a class that vLLM takes as ``quant_config`` says: attributes by the fact they are."""

    format: str
    attributes: Mapping[str, str]


CHECKPOINTS: dict[tuple[str, str], Checkpoint] = {
    ("compressed_tensors", "QuantizationArgs"): Checkpoint(
        "compressed_tensors",
        {n: n for n in ("num_bits", "symmetric", "strategy", "group_size", "actorder")},
    ),
    ("vllm", "AutoAWQConfig"): Checkpoint(
        "auto_awq",
        {"num_bits": "weight_bits", "group_size": "group_size", "zero_point": "zero_point"},
    ),
    ("vllm", "AutoGPTQConfig"): Checkpoint(
        "auto_gptq",
        {
            "num_bits": "weight_bits",
            "group_size": "group_size",
            "symmetric": "is_sym",
            "desc_act": "desc_act",
        },
    ),
    ("vllm", "MoeWNA16Config"): Checkpoint(
        "moe_wna16",
        {"num_bits": "weight_bits", "group_size": "group_size", "zero_point": "has_zp"},
    ),
    ("vllm", "QuarkConfig"): Checkpoint("quark", {}),
}
"""By package and name of the class."""

_CHECKPOINT_FACTS = (
    *("num_bits", "group_size", "symmetric", "strategy", "actorder"),
    *("zero_point", "desc_act"),
)


# Whose an object is ---------------------------------------------------------------------------


def _class_in(cls: type, package: str, name: str) -> bool:
    """Whether ``cls`` is, or descends from, the class of that name in that package."""
    return any(
        base.__name__ == name and base.__module__.partition(".")[0] == package
        for base in cls.__mro__
    )


def is_quant_key(value: object) -> bool:
    """Whether ``value`` is vLLM's QuantKey."""
    return _class_in(type(value), "vllm", "QuantKey")


def is_member(backend: Enum) -> bool:
    """Whether a backend is a member of an Enum of vLLM's."""
    return type(backend).__module__.partition(".")[0] == "vllm"


def are_vllms(*values: object) -> bool:
    """Whether objects, or classes, are vLLM's, or descend from its; false: none of them is.

    What is neither vLLM's nor this package's (None, tensors, numbers) goes with both. Raises
    TypeError for a mixture.
    """
    owners = {owner: value for value in values if (owner := _owner(value)) is not None}
    if len(owners) > 1:
        theirs, ours = (_name(v if isinstance(v, type) else type(v)) for v in _sorted(owners))
        raise TypeError(
            f"{theirs} does not go with {ours}: backend, layer, configurations and kernel class "
            "are either all vLLM's or all moe_rules'. A kernel of moe_kernels runs in vLLM through "
            "moe_rules.integrations.vllm (docs/vllm.md)"
        )
    return True in owners


def are_ours(*values: object) -> bool:
    """Whether any of the objects or classes is this package's."""
    return any(_owner(value) is False for value in values)


def _sorted(owners: Mapping[bool, object]) -> tuple[object, object]:
    return owners[True], owners[False]


def _owner(value: object) -> bool | None:
    """True for what is vLLM's, false for what is this package's, None for anything else."""
    cls = value if isinstance(value, type) else type(value)
    packages = {base.__module__.partition(".")[0] for base in cls.__mro__}
    if "vllm" in packages:
        return True
    return False if packages & {"moe_rules", "moe_kernels"} else None


def is_vllms(config: object, *keys: object) -> bool:
    """Whether a layer and its quantization keys are vLLM's; false: all are this package's.

    A key of None is both. Raises TypeError for a layer or key that is neither, and for a mixture.
    """
    vllms = not isinstance(config, FusedMoEConfig)
    if vllms:
        _require_layer(type(config))
    for key in keys:
        if key is None or (is_quant_key(key) if vllms else isinstance(key, QuantKey)):
            continue
        if is_quant_key(key) or isinstance(key, QuantKey):
            raise TypeError(
                f"{_name(type(config))} does not go with {_name(type(key))}: a layer and its "
                "quantization keys are either all vLLM's or all moe_rules'"
            )
        raise TypeError(
            "a quantization key is vLLM's QuantKey or moe_rules.vocabulary.quant_keys.QuantKey, "
            f"got {_name(type(key))}"
        )
    return vllms


def _require_layer(cls: type) -> None:
    if issubclass(cls, FusedMoEConfig):
        raise TypeError(
            f"vLLM's selectors take a layer as vLLM's FusedMoEConfig, got {_name(cls)}; "
            "moe_rules.oracles takes both"
        )
    if not _class_in(cls, "vllm", "FusedMoEConfig"):
        raise TypeError(
            "a layer is described by vLLM's FusedMoEConfig or by "
            f"moe_rules.vocabulary.layer.FusedMoEConfig, got {_name(cls)}"
        )


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}".removeprefix("builtins.")


# Layers ---------------------------------------------------------------------------------------

_PATHS = {"activation": "activation._value_", "routing_method": "routing_method._name_"}
"""Where a fact is not the attribute of its name. Members of Enums are slow to hash."""
_DTYPES = ("in_dtype", "router_logits_dtype")


class LayerReader:
    """Reads layers of one class of vLLM's. ``values`` takes a layer apart in one call, as it is.

    ``values(config)`` differs for any two layers that differ in a fact, is hashable, and is what
    :meth:`facts` takes. It raises AttributeError for a layer that was not initialised.
    """

    def __init__(self, cls: type) -> None:
        fields = {field.name for field in dataclasses.fields(cls)}
        here = [name for name in LAYER_FIELDS if name in fields]
        self._absent = {n: default for n, default in LAYER_FIELDS.items() if n not in fields}
        self._names = (*here, *PARALLEL_FIELDS)
        paths = [_PATHS.get(name, name) for name in here]
        paths += [f"moe_parallel_config.{name}" for name in PARALLEL_FIELDS]
        self.values: Callable[[Any], tuple[Any, ...]] = attrgetter(*paths)

    def facts(self, values: tuple[Any, ...]) -> dict[str, FactValue]:
        """The layer and parallel facts. Raises FactError for a value that a fact cannot have."""
        facts: dict[str, object] = {**self._absent, **dict(zip(self._names, values, strict=True))}
        for name in _DTYPES:
            facts[name] = dtype_name(facts[name])
        return typed_facts(facts)


class _LayerReaders(dict[type, LayerReader]):
    def __missing__(self, cls: type) -> LayerReader:
        _require_layer(cls)
        return self.setdefault(cls, LayerReader(cls))


LAYER_READERS = _LayerReaders()
"""The reader for layers of a class. Raises TypeError for a class that is not vLLM's."""


def layer_facts(config: Any) -> dict[str, FactValue]:
    """The layer and parallel facts of vLLM's FusedMoEConfig, as the rules name them."""
    reader = LAYER_READERS[type(config)]
    return reader.facts(reader.values(config))


# Quantization keys ----------------------------------------------------------------------------

_DTYPE_NAMES = {
    "float32": "fp32",
    "float16": "fp16",
    "bfloat16": "bf16",
    "float8_e8m0fnu": "e8m0",
}


def quant_key(key: Any) -> QuantKey | None:
    """The key of this package for one of vLLM's; "fp8_e4m3" is the platform's FP8 dtype."""
    if key is None:
        return None
    scale2 = None if key.scale2 is None else _scale(key.scale2)
    return QuantKey(_dtype(key.dtype), _scale(key.scale), scale2, key.symmetric)


def _scale(scale: Any) -> Scale:
    shape = scale.group_shape
    return Scale(_dtype(scale.dtype), scale.static, (shape.row, shape.col))


def _dtype(dtype: Any) -> str:
    """The name of a torch dtype, or of a ScalarType, whose text is its name."""
    text = str(dtype)
    if dtype == sys.modules[QUANT_KEYS].FP8_DTYPE:
        return "fp8_e4m3"
    name = text.removeprefix("torch.")
    return _DTYPE_NAMES.get(name, name)


def vllm_quant_key(key: QuantKey | None) -> Any:
    """The constant of vLLM's with the value of ``key``. Raises ValueError where it has none."""
    if key is None:
        return None
    module = importlib.import_module(QUANT_KEYS)
    names = [name for name, named in NAMED_KEYS.items() if named == key and hasattr(module, name)]
    if not names:
        raise ValueError(f"vLLM has no constant for the quantization key {key}")
    return getattr(module, names[0])


# Checkpoints ----------------------------------------------------------------------------------


class CheckpointReader:
    """Reads the ``quant_config`` of one class; ``values`` and ``facts`` as of a LayerReader."""

    def __init__(self, cls: type) -> None:
        found = [known for name, known in CHECKPOINTS.items() if _class_in(cls, *name)]
        if not found:
            known = ", ".join(name for _, name in CHECKPOINTS)
            raise TypeError(
                f"quant_config describes an integer checkpoint by one of vLLM's {known}, "
                f"got {_name(cls)}"
            )
        self._checkpoint = found[0]
        self._paths = tuple(found[0].attributes.values())

    def values(self, quant_config: Any) -> tuple[Any, ...]:
        """The attributes that are facts."""
        return tuple([getattr(quant_config, path) for path in self._paths])

    def facts(self, values: tuple[Any, ...]) -> dict[str, FactValue]:
        """The checkpoint facts; what the format does not say is none."""
        plain = [value.value if isinstance(value, Enum) else value for value in values]
        return {
            **dict.fromkeys(_CHECKPOINT_FACTS),
            "checkpoint_format": self._checkpoint.format,
            **dict(zip(self._checkpoint.attributes, plain, strict=True)),
        }


class _CheckpointReaders(dict[type, CheckpointReader]):
    def __missing__(self, cls: type) -> CheckpointReader:
        return self.setdefault(cls, CheckpointReader(cls))


CHECKPOINT_READERS = _CheckpointReaders()
"""The reader for a class of ``quant_config``. Raises TypeError for one vLLM does not take."""


# The engine -----------------------------------------------------------------------------------


def _model_type(config: Any) -> FactValue:
    model = config.model_config
    return None if model is None else getattr(model.hf_text_config, "model_type", None)


def _activation_override(config: Any) -> Any:
    arguments = getattr(config.model_config, "quantization_config", None)
    return getattr(getattr(arguments, "moe", None), "activation", None)


ENGINE_FACTS: dict[str, Callable[[Any], Any]] = {
    "model_type": _model_type,
    "moe_activation_override": _activation_override,
    "enable_dbo": lambda config: config.parallel_config.enable_dbo,
    "engine_enable_eplb": lambda config: config.parallel_config.enable_eplb,
    "weight_transfer": lambda config: config.weight_transfer_config is not None,
}
"""The facts that vLLM's oracles take from the current VllmConfig."""


def current_config() -> Any:
    """The VllmConfig of this process, or None outside ``set_current_vllm_config``."""
    module = sys.modules.get("vllm.config.vllm")
    return None if module is None else module._current_vllm_config


# Back -----------------------------------------------------------------------------------------


def vllm_member(backend: Enum) -> Any:
    """The member of vLLM's own Enum for a member of ours: both have the same names.

    Raises ValueError where the vLLM that is installed has none.
    """
    enum = type(backend).__name__
    module = importlib.import_module(f"{FUSED_MOE}.oracle.{ENUM_MODULES[enum]}")
    return member(getattr(module, enum), backend.name)


def vllm_kernel(name: str, oracle: str) -> type:
    """The class that runs in vLLM under a kernel name: one that a user registered, or vLLM's own.

    Whether the packages that it needs are there, vLLM's probes have said. Raises ImportError where
    it does not import, or nobody has it, and TypeError for a class that is none of vLLM's experts.
    """
    from moe_kernels.registry import Available, Provider, available, load, located, resolve

    users: tuple[Provider, ...] = ("registered", "entry point")
    for provider in users:
        if isinstance(available(name, provider=provider, oracle=oracle), Available):
            return _experts(name, resolve(name, provider=provider, oracle=oracle))
    target = located(name, "vllm", oracle=oracle)
    if target is None:  # nobody has it here: whoever should have it says what is missing
        has = [provider for provider in users if located(name, provider, oracle=oracle)]
        return resolve(name, provider=has[0] if has else "vllm", oracle=oracle)
    return load(name, "vllm", target)


def _experts(name: str, cls: type) -> type:
    if not _class_in(cls, "vllm", "FusedMoEExperts"):
        raise TypeError(
            f"kernel {name}: vLLM runs subclasses of its FusedMoEExperts, {_name(cls)} is none"
        )
    return cls
