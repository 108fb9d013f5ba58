"""The closed shape of ``rules/models/registry.yaml``: names of architectures that have no row."""

from __future__ import annotations

from moe_rules.models.schema import TableFile


class RegistryFile(TableFile):
    """``rules/models/registry.yaml``.

    ``endings`` are what vLLM exchanges in the name of an architecture that it does not have.
    ``without_moe_layers`` are architectures, ``not_in_vllm`` others with the reason,
    ``draft_models`` those of drafts, each with the architecture of its model; ``language_models``
    has one for each model type, ``model_types`` the type of those whose configurations name none.
    """

    endings: list[str]
    without_moe_layers: list[str]
    not_in_vllm: dict[str, str]
    draft_models: dict[str, str]
    language_models: dict[str, str]
    model_types: dict[str, str]
