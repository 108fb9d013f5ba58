"""The codes of what ``moe-rules verify`` finds: rule files say by them which findings are meant so.

What finds them is :mod:`moe_rules.analysis`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

CODES = {
    "unreachable-backend": "No deployment gets the backend, not even by name.",
    "unreachable-kernel": "The kernel could serve, but no deployment gets it from any oracle.",
    "unreachable-step": "The step applies to no deployment that comes so far.",
    "unreachable-request": "This meaning of the name applies to no deployment.",
    "unreachable-adjustment": "The adjustment applies to no deployment.",
    "unsatisfiable-kernel": "No machine and no layer has all that the kernel requires.",
    "kernel-without-machine": "The kernel serves, but on none of the named machines.",
    "shadowed-kernel": "The backend offers a kernel that it never uses, though it could serve.",
    "never-automatic": "The backend is in the order, but only a request gets it: anywhere, or "
    "where all software is installed.",
    "without-request": "No request gets the backend, though others of the oracle have names.",
    "needs-switch": "No deployment gets the kernel unless a switch is set.",
    "assumption-without-effect": "Without the assumption, every deployment is decided alike.",
    "step-without-effect": "Without the step, every deployment is decided alike.",
    "request-without-effect": "Without this meaning, every deployment is decided alike.",
    "adjustment-without-effect": "Without the adjustment, every deployment is decided alike.",
    "clause-without-effect": "The clause refuses deployments that are decided alike without it.",
    "alternative-without-effect": "The alternative admits deployments that are decided alike "
    "without it.",
    "scheme-without-effect": "The scheme admits deployments that are decided alike without it.",
    "redundant-clause": "No deployment fails the clause alone.",
    "redundant-alternative": "No deployment passes by the alternative alone.",
    "redundant-scheme": "No deployment passes by the scheme alone.",
    "failing-request": "No deployment that asks for this name is served.",
    "left-unserved": "Nothing serves some deployments that a backend of the oracle would serve.",
    "taken-unasked": "A step selects a backend for deployments that its kernel does not serve.",
    "irrelevant-fact": "A fact decides that should not matter.",
}
"""Every code, and what it says."""

if TYPE_CHECKING:
    FindingCode = str
else:
    FindingCode = Literal[*CODES]
