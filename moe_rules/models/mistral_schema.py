"""The closed shape of ``rules/models/mistral.yaml``: how params.json is read."""

from __future__ import annotations

from moe_rules.models.schema import Closed, Conditions, Refusal, Scalar, TableFile


class MistralArchitecture(Closed):
    """A model that params.json describes: where its fields about experts go, and what it needs."""

    when: Conditions = {}
    architecture: str
    moe: dict[str, str] = {}
    required: list[str] = []
    reads: list[str] = []
    set: dict[str, Scalar] = {}
    refuse: list[Refusal] = []


class MistralQuantization(Closed):
    """What params.json says of quantization, as a block of config.json; ``keep``: it is one."""

    when: Conditions = {}
    block: dict[str, str] = {}
    keep: bool = False
    refuse: str | None = None


class MistralFile(TableFile):
    """``rules/models/mistral.yaml``."""

    fields: dict[str, str]
    defaults: dict[str, Scalar]
    architectures: list[MistralArchitecture]
    latent_attention: str
    quantization: list[MistralQuantization]
    around: list[MistralArchitecture]
