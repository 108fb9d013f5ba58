"""Deployments as commands: the machine that is named."""

from __future__ import annotations

from moe_rules.cli.witness import explain_command
from moe_rules.machines.machine import load_machine


def test_the_machine_that_is_named_has_most_of_the_facts() -> None:
    for name in ("h100", "gb10", "a100"):
        capability = load_machine(name).platform["compute_capability"]
        command = explain_command("cuda", "fp8", {"compute_capability": capability})
        named = load_machine(command.split("--machine ")[1].split()[0])
        assert named.platform["compute_capability"] == capability
        assert "compute_capability" not in command
