"""Which architectures the tables know, and how: ``docs/coverage.md``.

``python -m moe_rules.reporting.coverage --write`` writes it.
"""

from __future__ import annotations

import sys

from moe_rules.models.tables import Tables, load_tables
from moe_rules.reporting.generated import write_page

INTRODUCTION = """\
# Architectures

This file is generated from `rules/models`: `python -m moe_rules.reporting.coverage --write`. Each
name of vLLM 0.33.0's model registry, and of each architecture that transformers 5.24.0 builds from
a configuration class of a MoE model, is in one of these tables; `tests/models/test_coverage.py`
holds them against both lists. A name with another ending (`...Model`,
`...ForSequenceClassification`) counts as the one that is here.

| kind | architectures | what is answered |
| --- | ---: | --- |
"""
MEANING = {
    "in the tables": "its MoE layers",
    "no oracle": "its MoE layers, and what runs them: the model class asks no oracle",
    "no MoE layers": "that it has none",
    "draft": "the model that it is a draft of",
    "not in vLLM": "that vLLM refuses it, and why",
}


def tables_of(tables: Tables) -> dict[str, list[str]]:
    """The names of every kind, sorted."""
    rows = tables.architectures["architectures"]
    registry = tables.registry
    found = {
        "in the tables": [name for name, row in rows.items() if row["no_oracle"] is None],
        "no oracle": [name for name, row in rows.items() if row["no_oracle"] is not None],
        "no MoE layers": registry["without_moe_layers"],
        "draft": registry["draft_models"],
        "not in vLLM": [*registry["not_in_vllm"], *tables.architectures["no_longer_supported"]],
    }
    return {
        kind: sorted(names, key=lambda name: (name.lower(), name)) for kind, names in found.items()
    }


def kind_of(name: str, tables: Tables) -> str | None:
    """The kind of an architecture, None for one that no table has."""
    return next((kind for kind, names in tables_of(tables).items() if name in names), None)


def document() -> str:
    """``docs/coverage.md``: the counts, then the names of every kind."""
    found = tables_of(load_tables())
    counts = [f"| {kind} | {len(names)} | {MEANING[kind]} |" for kind, names in found.items()]
    counts.append(f"| together | {sum(map(len, found.values()))} | |")
    parts = [INTRODUCTION + "\n".join(counts)]
    for kind, names in found.items():
        parts.append(f"## {kind[:1].upper()}{kind[1:]}\n\n{', '.join(f'`{n}`' for n in names)}")
    return "\n\n".join(parts) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Print the document, or write it to ``docs/coverage.md`` with ``--write``."""
    return write_page("moe_rules.reporting.coverage", "coverage.md", document, arguments)


if __name__ == "__main__":
    sys.exit(main())
