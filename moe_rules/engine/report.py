"""A failed decision in words: what was asked, and what each candidate wanted instead.

The least change after which a backend serves is the business of :mod:`moe_rules.analysis.nearest`.
"""

from __future__ import annotations

from moe_rules.engine.explanation import Candidate, Explanation
from moe_rules.language.rules import AUTO, Backend
from moe_rules.vocabulary.fact_values import did_you_mean, in_words


def error_text(decision: Explanation) -> str:
    """Say in several lines why no backend was selected."""
    refusal = decision._outcome.refusal
    assert refusal is not None
    name = str(decision.facts["moe_backend"])
    where = f"oracle {decision.oracle!r} on {decision.platform}"
    if decision.requested is not None:
        where += f"; requested by {decision.requested}"
    if refusal.why == "unknown_request":
        return _unknown_request(decision, name, where)
    if refusal.why == "refused":
        assert refusal.reason is not None
        return f"{refusal.text} ({where}, {refusal.reason.location.short})"
    if refusal.why == "request_cannot_serve" and decision.how == "requested":
        head = f"moe_backend={name!r} cannot serve this layer ({where})"
    elif refusal.why == "request_cannot_serve":
        assert refusal.reason is not None
        text = refusal.reason.text or "a backend is demanded that cannot serve"
        head = f"{text} ({where}, {refusal.reason.location.short})"
    else:
        head = refusal.text or "no backend supports this deployment"
        head = f"{head} ({where})"
    lines = [head, *_layer(decision)]
    asked = [c for c in decision.candidates if c.reached]
    for candidate in asked:
        lines.extend(_candidate(candidate))
    for weighing in decision.weighed[0]:
        backend = weighing.backend
        lines.extend(f"  {backend.name}: {line}" for line in withdrawn_kernels(backend))
    for removed in decision.removed:
        because = f": {removed.because}" if removed.because else ""
        lines.append(
            f"  {removed.backend}: taken out of the order at {removed.location.short}{because}"
        )
    return "\n".join(lines)


def withdrawn_kernels(backend: Backend) -> list[str]:
    """A sentence about each kernel of the backend that a file withdraws: why, and where."""
    return [
        f"{kernel} is withdrawn: {why.text} ({why.location.short})"
        for kernel, why in backend.withdrawn
    ]


def _unknown_request(decision: Explanation, name: str, where: str) -> str:
    names = decision.request_names
    if name in names:
        return (
            f"moe_backend={name!r} is not available for this layer ({where}); "
            f"its conditions: {_request_conditions(decision, name)}"
        )
    withdrawn = decision.withdrawn.get(name)
    if withdrawn is not None:
        why = f"{withdrawn.text} ({withdrawn.location.short})"
        return f"moe_backend={name!r} is no backend of {where}: {why}"
    known = [AUTO, *names]
    takes = f"it takes {', '.join(known)}" if names else "it takes only auto"
    return f"moe_backend={name!r} is no backend of {where}{did_you_mean(name, known)}; {takes}"


def _request_conditions(decision: Explanation, name: str) -> str:
    cases = decision._plan.oracle.requests[name]
    return " | ".join(f"{case.when.words()} ({case.reason.location.short})" for case in cases)


def _layer(decision: Explanation) -> list[str]:
    facts = decision.facts
    shown = ("weight_key", "activation_key", "activation", "in_dtype", "all2all", "num_experts")
    words = [f"{name}={in_words(facts[name])}" for name in shown if name in facts]
    return [f"  asked: {', '.join(words)}"]


def _candidate(candidate: Candidate) -> list[str]:
    lines = [f"  {candidate.backend} / {candidate.kernel}:"]
    lines += [f"    [{f.code}] {f} ({f.location.short})" for f in candidate.failures]
    return lines
