"""A page per oracle and platform: what it decides, in the order in which it goes about it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from moe_rules.language.rules import (
    Adjustment,
    Backend,
    Oracle,
    PlatformRules,
    Reason,
    RequestCase,
    Step,
)
from moe_rules.vocabulary.fact_values import in_words
from tools.site.conditions import assumed, listed, sentence
from tools.site.markdown import code, document, heading, place, section, table
from tools.site.tables import odd, to_backend, to_kernel

_LEAD = "yaml-language-server"
_MOVES = {
    "first": "{names} to the front",
    "last": "{names} to the end",
    "before": "{names} directly ahead of {anchor}",
    "after": "{names} directly behind {anchor}",
    "drop": "{names} only by request",
    "withdraw": "{names} not at all, not even by request",
}
_STEPS = {
    "take": "select {backend}, and ask no kernel",
    "try": "select {backend} if it serves",
    "force": "select {backend}, or it is an error ({error})",
    "refuse": "refuse ({error}): {text}",
    "drop": "go on without {names}",
}


def oracle_page(rules: PlatformRules, oracle: Oracle) -> str:
    """How an oracle selects on a platform."""
    platform = rules.platform
    return document(
        heading(1, f"{oracle.name} on {platform}"),
        _about(oracle),
        f"The rules: {place(oracle.location)}. They are read from the top of this page to its end; "
        "the first backend of the order that serves is selected.",
        section(2, "Assumes", _assumptions(oracle)),
        section(2, "Before a request", _steps(platform, oracle, oracle.shortcuts)),
        section(2, "Requests", _requests(platform, oracle)),
        section(2, "After a request", _steps(platform, oracle, oracle.switches)),
        section(2, "Order", _order(platform, oracle)),
        section(2, "Adjustments of the order", _adjustments(platform, oracle)),
        section(2, "If nothing serves", _otherwise(oracle)),
        section(2, "Backends", document(*_backends(platform, oracle)).rstrip()),
    )


def _about(oracle: Oracle) -> str:
    """What the file of one oracle says at its top."""
    file = Path(oracle.location.file)
    if file.stem != oracle.name:
        return ""
    lead: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if _LEAD not in line:
            lead.append(line.lstrip("# "))
    return " ".join(lead)


def _why(reason: Reason) -> str:
    """A reason with its line and, where there is one, the oddity of the reference."""
    odd = f"*Odd in the reference:* {' '.join(reason.quirk.split())}" if reason.quirk else ""
    return ". ".join(part for part in (reason.text, odd) if part)


def _assumptions(oracle: Oracle) -> str:
    rows = [
        [sentence(one.when), assumed(one.values), _why(one.reason), place(one.reason.location)]
        for one in oracle.assume
    ]
    return table(["where", "fixes", "because", "line"], rows)


def _named(platform: str, oracle: Oracle, names: Iterable[str]) -> str:
    return ", ".join(to_backend(platform, oracle.name, name) for name in names)


def _steps(platform: str, oracle: Oracle, steps: Iterable[Step]) -> str:
    rows = [
        [
            sentence(step.when),
            _step(platform, oracle, step),
            _why(step.reason),
            place(step.reason.location),
        ]
        for step in steps
    ]
    return table(["where", "then", "because", "line"], rows)


def _step(platform: str, oracle: Oracle, step: Step) -> str:
    backend = step.backend
    text = _STEPS[step.action].format(
        backend=to_backend(platform, oracle.name, backend.name) if backend else "",
        error=step.error,
        text=step.text,
        names=_named(platform, oracle, step.names),
    )
    if step.own_kernels and backend:
        asked = ", ".join(to_kernel(platform, choice.kernel.name) for choice in backend.choices)
        text += f", asking {asked}"
    return f"{text}, with {assumed(step.assume)}" if step.assume else text


def _requests(platform: str, oracle: Oracle) -> str:
    rows = [
        [
            code(name),
            requested(platform, oracle.name, case),
            sentence(case.when),
            _why(case.reason),
            place(case.reason.location),
        ]
        for name, cases in oracle.requests.items()
        for case in cases
    ]
    return table(["`--moe-backend`", "asks", "where", "because", "line"], rows)


def requested(platform: str, oracle: str, case: RequestCase) -> str:
    """The backends that a request asks, in order."""
    if case.auto:
        return "as without a request"
    names = ", ".join(to_backend(platform, oracle, backend.name) for backend in case.backends)
    return f"{names}, with {assumed(case.assume)}" if case.assume else names


def _order(platform: str, oracle: Oracle) -> str:
    order = "\n".join(
        f"{i}. {_named(platform, oracle, [n])}" for i, n in enumerate(oracle.priority, 1)
    )
    variants = oracle.variants
    if variants is None or not order:
        return order
    return document(
        order,
        f"Backends whose own {code(variants.fact)} is the one asked for come first, then those "
        f"with {code(in_words(variants.fallback))}; the others are left out.",
    ).rstrip()


def _adjustments(platform: str, oracle: Oracle) -> str:
    rows = [
        [
            sentence(one.when),
            _move(platform, oracle, one),
            _why(one.reason),
            place(one.reason.location),
        ]
        for one in oracle.adjust
    ]
    return table(["where", "moves", "because", "line"], rows)


def _move(platform: str, oracle: Oracle, one: Adjustment) -> str:
    anchor_ = _named(platform, oracle, [one.anchor]) if one.anchor else ""
    return _MOVES[one.action].format(names=_named(platform, oracle, one.names), anchor=anchor_)


def _otherwise(oracle: Oracle) -> str:
    otherwise = oracle.otherwise
    what = (
        f"{code(otherwise.backend)} without a kernel"
        if otherwise.backend
        else f"an error ({otherwise.error})"
    )
    why = _why(otherwise.reason)
    return f"{what[:1].upper()}{what[1:]} ({place(otherwise.reason.location)}). {why}".rstrip()


def _backends(platform: str, oracle: Oracle) -> Iterable[str]:
    for backend in oracle.backends.values():
        yield section(3, code(backend.name), _backend(platform, oracle, backend))


def _backend(platform: str, oracle: Oracle, backend: Backend) -> str:
    names = [
        name
        for name, cases in oracle.requests.items()
        if any(backend.name == asked.name for case in cases for asked in case.backends)
    ]
    kernels = [
        to_kernel(platform, choice.kernel.name)
        + ("" if sentence(choice.when) == "always" else f" where {sentence(choice.when)}")
        for choice in backend.choices
    ]
    in_order = backend.name in oracle.priority
    lines = [
        f"- declared in {place(backend.location)}",
        f"- kernels, in the order asked: {', '.join(kernels)}" if kernels else "- no kernel",
        f"- asked for by {', '.join(map(code, names))}" if names else "- no request asks for it",
        "" if in_order else "- not in the order",
        f"- while its kernels are asked: {assumed(backend.assume)}" if backend.assume else "",
    ]
    requires = listed(backend.requires)
    return document(
        "\n".join(line for line in lines if line),
        f"**Requires, besides its kernels**\n\n{requires}" if requires else "",
        *odd(platform, f"backend {code(backend.name)}", oracle.name),
    ).rstrip()
