"""A page per platform of what its kernels require, in words, with their lines."""

from __future__ import annotations

import re

from moe_kernels.registry import Provider, located

from moe_rules.language.conditions import Implied
from moe_rules.language.reading import vocabulary
from moe_rules.language.rules import Kernel, PlatformRules
from moe_rules.language.schemes import Schemes
from moe_rules.vocabulary.quant_keys import NAMED_KEYS
from tools.site.conditions import lacking, listed, parts, sentence, wanted
from tools.site.markdown import anchor, code, document, heading, link, place, table
from tools.site.tables import kinds, odd, to_backend, users_of

_PROVIDERS: tuple[tuple[Provider, str], ...] = (("moe_kernels", "here"), ("vllm", "in vLLM"))

KINDS = {
    "modular": "modular: gets tokens that are routed already",
    "monolithic": "monolithic: routes tokens itself, from the router's logits",
}
"""What a kernel of each kind does."""


def kernels_page(rules: PlatformRules) -> str:
    """All kernels of a platform, in the order of their names."""
    kernels = sorted(rules.kernels.values(), key=lambda kernel: kernel.name.lower())
    return document(
        heading(1, f"Kernels of {rules.platform}"),
        "A kernel serves a layer if one of its schemes is the layer's and everything that it "
        "requires holds. What nobody says of a deployment speaks against no kernel.",
        *(_kernel(rules, kernel) for kernel in kernels),
    )


def _kernel(rules: PlatformRules, kernel: Kernel) -> str:
    own = [part for part in parts(kernel.condition) if not isinstance(part, Implied)]
    users = [
        f"{to_backend(rules.platform, oracle.name, backend.name)} of {oracle.name}"
        for oracle, backend in users_of(rules, kernel)
    ]
    lines = [
        f"- declared in {place(kernel.location)}",
        f"- offered by {', '.join(users)}" if users else "",
        f"- class {_classes(kernel)}",
        f"- {KINDS[kinds(rules.platform)[kernel.name]]}",
        _features(kernel),
    ]
    return document(
        heading(2, kernel.name),
        "\n".join(line for line in lines if line),
        "**Schemes**" if any(isinstance(part, Schemes) for part in own) else "**Schemes**: all",
        *(_schemes(part) for part in own if isinstance(part, Schemes)),
        f"**Requires**\n\n{listed(kernel.condition)}" if listed(kernel.condition) else "",
        *odd(rules.platform, code(kernel.name)),
    ).rstrip()


def _classes(kernel: Kernel) -> str:
    places = {where: located(kernel.class_name, provider) for provider, where in _PROVIDERS}
    found = [f"{code(target)} {where}" for where, target in places.items() if target]
    return " and ".join(found) or code(kernel.class_name)


def _features(kernel: Kernel) -> str:
    """What a kernel does not support: what has to hold instead of each feature."""
    without = lacking(kernel.condition)
    if not without:
        return "- supports all features"
    names = {
        fact: name for name, feature in vocabulary().features.items() for fact in feature.without
    }
    told = [
        f"{link(names[part.fact], f'/facts/sets.md#{anchor(names[part.fact])}')} ({sentence(part)})"
        for part in without
    ]
    return f"- without {', '.join(told)}: {place(without[0].location)}"


def _schemes(schemes: Schemes) -> str:
    rows = [
        [
            _key(wanted(scheme.weight)),
            _key(wanted(scheme.activation)),
            sentence(scheme.when),
        ]
        for scheme in schemes.schemes
    ]
    return table(["weights", f"activations ({place(schemes.location)})", "where"], rows)


def _key(words: str) -> str:
    """Keys, each linked to what it is."""
    return re.sub(
        r"`(\w+)`",
        lambda found: link(found[0], f"/facts/quant_keys.md#{anchor(found[1])}")
        if found[1] in NAMED_KEYS
        else found[0],
        words.removeprefix("one of "),
    )
