"""Recordings from the field: what vLLM selected, as cases that ``moe-rules conformance`` reads."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from moe_rules.conformance.writing import append_case, case_of, refused, selected
from moe_rules.integrations.vllm.outcomes import Outcome
from moe_rules.integrations.vllm.selectors import Question, Tables
from moe_rules.oracles.vllm_machine import this_machine
from moe_rules.oracles.vllm_objects import ENGINE_FACTS, current_config, quant_key
from moe_rules.vocabulary.fact_values import FactValue
from moe_rules.vocabulary.facts import FACTS

RECORD_VARIABLE = "MOE_RULES_VLLM_RECORD"


def record(path: Path, tables: Tables, question: Question, outcome: Outcome) -> None:
    """Add one call of a selector, and what vLLM came to, to a ``*.jsonl.gz`` file."""
    if isinstance(outcome, Exception):
        expect = refused(outcome)
    else:
        backend, kernel = outcome
        name = None if kernel is None else kernel.__name__
        expect = selected(backend.name, backend.value, name)
    facts = {**engine_facts(), **tables.facts(question)}
    tags = {"recorded in": f"vLLM {getattr(sys.modules.get('vllm'), '__version__', '')}"}
    append_case(path, case_of(tables.oracle, this_machine(), facts, os.environ, expect, tags))


def engine_facts() -> dict[str, FactValue]:
    """What the engine's current configuration says, also what no rule asks today."""
    current = current_config()
    if current is None:
        return {}
    said = {name: read(current) for name, read in ENGINE_FACTS.items()}
    return {n: quant_key(v) if FACTS[n].type == "quant_key" else v for n, v in said.items()}
