"""Which row of the tables a configuration has, by the architectures that it names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from moe_rules.models.conditions import Context
from moe_rules.models.errors import CheckpointRefusedError, UnknownModelError
from moe_rules.models.hf_config import HfConfig, file_of
from moe_rules.models.merging import merged
from moe_rules.models.suggest import unknown_name
from moe_rules.models.tables import Tables
from moe_rules.models.typed import shown
from moe_rules.vocabulary.layer import REQUIRED_FACTS


def architectures_of(level: HfConfig, text: HfConfig, tables: Tables) -> list[str]:
    """The architectures that a configuration names, else the one that belongs to its model type."""
    names = level.fields.get("architectures")
    if isinstance(names, list) and names:
        return [str(name) for name in names]
    known = tables.registry["language_models"].get(text.model_type)
    return [] if known is None else [known]


def find(names: list[str], tables: Tables) -> str | None:
    """The first of these architectures that has a row or is known to have no MoE layers.

    A name that is neither counts with another ending, as vLLM does it: a classifier or an
    embedding model is its language model with another head.
    """
    for name in names:
        for one in (name, *_relatives(name, tables.registry["endings"])):
            if one in tables.architectures["architectures"] or has_no_moe_layers(one, tables):
                return one
    return None


def has_no_moe_layers(name: str | None, tables: Tables) -> bool:
    """Whether the architecture is known to have none."""
    return name in tables.registry["without_moe_layers"]


def _relatives(name: str, endings: list[str]) -> Iterator[str]:
    ending = next((one for one in endings if name.endswith(one)), None)
    return (name.removesuffix(ending) + other for other in endings) if ending else iter(())


def row_for(outer: HfConfig, text: HfConfig, tables: Tables, device: Any) -> dict[str, Any] | None:
    """The row of a configuration's architecture on a device; None for one without MoE layers.

    Around a language model of any architecture the row is that one's, with its place in the model.
    Raises CheckpointRefusedError for an architecture that vLLM dropped, UnknownModelError for one
    that the tables do not know.
    """
    row = _named(outer, text, tables, device)
    if row is None or row["language_model"] is None:
        return row
    inner = _named(text, text, tables, device)
    if inner is None:
        return None
    experts = f"{row['language_model']}.{inner['experts']}"
    return {**inner, "experts": experts, "rename": row["rename"] or inner["rename"]}


def _named(level: HfConfig, text: HfConfig, tables: Tables, device: Any) -> dict[str, Any] | None:
    names = architectures_of(level, text, tables)
    name = find(names, tables)
    if name is None:
        raise _not_known(names, level.place, tables)
    if has_no_moe_layers(name, tables):
        return None
    row = tables.architectures["architectures"][name]
    return merged(row, row["platforms"][device]) if device in row["platforms"] else dict(row)


def _not_known(names: list[str], place: str, tables: Tables) -> ValueError:
    """The error for architectures without a row."""
    drafts = tables.registry["draft_models"]
    dropped = tables.architectures["no_longer_supported"]
    for name in names:
        for section in ("architectures", "without_moe_layers", "draft_models"):
            why = tables.withdrawn(section, name)
            if why is not None:
                return CheckpointRefusedError(f"{name} is not in this release of vLLM: {why}")
        if name in tables.registry["not_in_vllm"]:
            return CheckpointRefusedError(f"{name}: {tables.registry['not_in_vllm'][name]}")
        if name in drafts:
            of = drafts[name]
            return CheckpointRefusedError(
                f"{name} is a draft model, which vLLM builds beside {of}; ask for that one"
            )
        if name in dropped:
            return CheckpointRefusedError(
                f"{name} was supported in vLLM until v{dropped[name]} and is no more"
            )
    rows = tables.architectures["architectures"]
    what = (
        f"{place}: {unknown_name('architecture', names[0], rows)}"
        if names
        else f"{place} names no architecture, and no known model type"
    )
    return UnknownModelError(
        f"{what}; without its row these facts are missing: {', '.join(REQUIRED_FACTS)}",
        REQUIRED_FACTS,
    )


def type_of_architecture(fields: Mapping[str, Any], tables: Tables) -> str | None:
    """The model type that vLLM takes for an architecture whose checkpoints name none."""
    names = fields.get("architectures")
    first = names[0] if isinstance(names, list) and names else None
    found: str | None = tables.registry["model_types"].get(str(first))
    return found


def refuse_without_class(context: Context) -> None:
    """Raise CheckpointRefusedError for a known architecture without the type of its class."""
    if context["model.architecture"] is not None and context["config.model_type"] is None:
        raise CheckpointRefusedError(
            f"{file_of(context)} gives no model_type, by which transformers finds the class of a "
            "configuration"
        )


def refuse_activation(row: Mapping[str, Any], context: Context) -> None:
    """Raise CheckpointRefusedError for an activation that the model class does not take."""
    said, taken = context["hidden_act"], row["activations"]
    if taken and context.has("hidden_act") and said not in taken:
        raise CheckpointRefusedError(
            f"hidden_act is {shown(said)}, and vLLM's model class takes {' or '.join(taken)} only",
            "model",
        )


def refuse_missing_fields(row: Mapping[str, Any], context: Context) -> None:
    """Raise CheckpointRefusedError where a field is absent that the model class reads."""
    missing = [name for name in row["reads"] if not context.has(name)]
    if missing:
        model_type = context["model_type"]
        of_class = f", nor does its class {model_type!r}" if model_type else ""
        raise CheckpointRefusedError(
            f"vLLM's model class reads {', '.join(missing)}, which {file_of(context)} does not give"
            f"{of_class}",
            "model",
        )
