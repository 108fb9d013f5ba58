"""The closed shape of ``rules/models/quantization.yaml`` (pydantic), from which a schema is made.

``QuantizationFile`` leads from a checkpoint's quantization to the oracle that is asked, its keys
and its options.
"""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator, model_validator

from moe_rules.files.problems import KeyPath
from moe_rules.files.validate import wrong_at
from moe_rules.models.formats import FORMATS
from moe_rules.models.schema import (
    Closed,
    Conditions,
    LoadCheck,
    Refusal,
    Scalar,
    Skip,
    Source,
    TableFile,
    known_name,
    named,
)
from moe_rules.models.shard_checks import COMPUTED_KEYS, LAYER_CHANGES
from moe_rules.vocabulary.quant_keys import NAMED_KEYS
from moe_rules.vocabulary.table_names import OracleName, PlatformName

Dtype = Literal["bf16", "fp16", "fp32"]


class Detection(Closed):
    """A checkpoint (and request) that a method claims. The first row that holds decides."""

    when: Conditions
    method: str | None = None
    refuse: str | None = None


class Computed(Closed):
    """A quantization key that follows from sizes, by the algorithm of that name."""

    computed: str

    @field_validator("computed")
    @classmethod
    def _known_algorithm(cls, name: str) -> str:
        return known_name("computed key", name, COMPUTED_KEYS)


Key = str | Computed | None


class Scheme(Closed):
    """What a quantized layer asks for: an oracle with keys and options, or why there is none.

    Exactly one of ``oracle``, ``no_oracle``, ``refuse`` and ``then`` (another list of schemes).
    A text in ``options`` or ``quant_config`` names a value of the layer's quantization; ``kind``
    is the checkpoint format object the oracle is given. ``layer`` is what the method does to the
    layer before it asks, ``loading`` names what it checks after that.
    """

    when: Conditions = {}
    oracle: OracleName | None = None
    weight: Key = None
    activation: Key = None
    options: dict[str, bool | str] = {}
    quant_config: dict[str, Scalar] = {}
    layer: str | None = None
    loading: list[str] = []
    no_oracle: str | None = None
    refuse: str | None = None
    then: str | None = None

    @field_validator("layer")
    @classmethod
    def _known_change(cls, name: str | None) -> str | None:
        return None if name is None else known_name("layer change", name, LAYER_CHANGES)

    @field_validator("weight", "activation")
    @classmethod
    def _known_key(cls, key: Key) -> Key:
        if isinstance(key, str):
            known_name("quantization key", key, NAMED_KEYS)
        return key

    @model_validator(mode="after")
    def _one_outcome(self) -> Scheme:
        given = [self.oracle, self.no_oracle, self.refuse, self.then]
        if sum(one is not None for one in given) != 1:
            raise ValueError("give exactly one of oracle, no_oracle, refuse, then")
        return self


class Method(Closed):
    """One of vLLM's quantization methods.

    ``format`` is how the checkpoint's block is laid out, ``values`` the names under which its
    fields are known to the schemes; ``named`` says, under such a name, whether a list of module
    names has the layer. ``unavailable_on``: platforms whose list of methods lacks it.
    """

    same_as: str | None = None
    format: str = "plain"
    minimum_capability: int = 0
    dtypes: list[Dtype] = ["bf16", "fp16", "fp32"]
    unavailable_on: list[PlatformName] = []
    deprecated: bool = False
    values: dict[str, Source] = {}
    named: dict[str, Skip] = {}
    required: list[str] = []
    skip: Skip | None = None
    refuse: list[Refusal] = []
    schemes: str | list[Scheme] = []

    @field_validator("format")
    @classmethod
    def _known_format(cls, name: str) -> str:
        return known_name("format", name, FORMATS)


class OnlineKey(Closed):
    """A name of a quantization key in ``quantization_config``."""

    key: str
    method: str | None = None
    elsewhere: bool = False

    @field_validator("key")
    @classmethod
    def _known_key(cls, name: str) -> str:
        return known_name("quantization key", name, NAMED_KEYS)


class QuantizationFile(TableFile):
    """``rules/models/quantization.yaml``.

    ``detect``: which method reads a checkpoint, where that is not the one its block names.
    ``online``: methods that a user may ask for with an unquantized checkpoint,
    ``online_shorthands`` those of them that ``quantization_config`` may name. ``loading``: lists
    of checks that schemes name.
    ``refuse_requantized``: why experts that a checkpoint has quantized are not quantized online.
    """

    detect: list[Detection]
    loading: dict[str, list[LoadCheck]] = {}
    online: dict[str, str]
    online_shorthands: list[str]
    online_keys: dict[str, OnlineKey]
    refuse_requantized: str | None = None
    methods: dict[str, Method]
    schemes: dict[str, list[Scheme]]

    @model_validator(mode="after")
    def _names_exist(self) -> QuantizationFile:
        for name, method in self.methods.items():
            path: KeyPath = ("methods", name)
            if method.same_as is not None:
                named((*path, "same_as"), method.same_as, self.methods)
                if self.methods[method.same_as].same_as is not None:
                    raise wrong_at((*path, "same_as"), f"{method.same_as} has same_as itself")
            if isinstance(method.schemes, str):
                named((*path, "schemes"), method.schemes, self.schemes)
            else:
                self._check_schemes((*path, "schemes"), method.schemes)
        for name, schemes in self.schemes.items():
            self._check_schemes(("schemes", name), schemes)
            self._check_end(name)
        for i, row in enumerate(self.detect):
            if row.method is not None:
                named(("detect", i, "method"), row.method, self.methods)
        for name, target in self.online.items():
            named(("online", name), target, self.methods)
        return self

    def _check_schemes(self, path: KeyPath, schemes: list[Scheme]) -> None:
        for i, scheme in enumerate(schemes):
            if scheme.then is not None:
                named((*path, i, "then"), scheme.then, self.schemes)
            for j, checks in enumerate(scheme.loading):
                named((*path, i, "loading", j), checks, self.loading)

    def _check_end(self, name: str, seen: tuple[str, ...] = ()) -> None:
        if name in seen:
            raise wrong_at(("schemes", name), f"{name} leads back to itself by 'then'")
        for scheme in self.schemes.get(name, ()):
            if scheme.then is not None:
                self._check_end(scheme.then, (*seen, name))
