"""vLLM decides by the tables: a plugin of its group ``vllm.general_plugins``.

vLLM calls :func:`register` in every process that may build a model. ``MOE_RULES_VLLM`` says what
it does (:mod:`moe_rules.integrations.vllm.mode`); unset, it does nothing and imports nothing more.
``docs/vllm.md`` is for users.
"""

from __future__ import annotations

from moe_rules.integrations.vllm.mode import Mode, mode_from_environ


def register() -> None:
    """Do what ``MOE_RULES_VLLM`` says; twice is as once. Raises ValueError for what it cannot."""
    mode = mode_from_environ()
    if mode is not Mode.OFF:
        from moe_rules.integrations.vllm.plugin import install

        install(mode)
