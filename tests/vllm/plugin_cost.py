"""Times one decision in the plugin, and vLLM's own selection for the same objects.

As :mod:`tests.vllm.cost`, which is run alike, but what is timed is what the plugin puts in the
place of vLLM's selectors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moe_rules.machines.machine import Machine
from tests.vllm.cost import print_table


def _plugin(oracle: str, theirs: Any, on: Machine) -> Callable[..., Any]:
    # vLLM is imported here, on a machine that is simulated by then.
    from moe_rules.integrations.vllm.plugin import selecting
    from moe_rules.integrations.vllm.selectors import Tables

    ours: Callable[..., Any] = selecting(Tables(oracle, theirs), theirs)
    return ours


if __name__ == "__main__":
    print_table("plugin", _plugin)
