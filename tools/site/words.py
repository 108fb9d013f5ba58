"""Pages of what rules may name besides facts: sets of values, features, quantization keys."""

from __future__ import annotations

import functools
from collections.abc import Callable

from moe_rules.files.packaged import packaged_rules
from moe_rules.files.yaml_source import YamlSource, read_yaml
from moe_rules.language.fact_tests import Anything
from moe_rules.language.reading import vocabulary
from moe_rules.language.rules import Kernel
from moe_rules.language.ruleset import VOCABULARY
from moe_rules.language.schemes import Schemes
from moe_rules.language.word_files import Feature
from moe_rules.vocabulary.fact_values import in_words
from moe_rules.vocabulary.quant_keys import CHANNEL, NAMED_KEYS, TENSOR, TOKEN, QuantKey, Scale
from tools.site.conditions import fact, lacking, parts
from tools.site.markdown import code, document, heading, place, section, table
from tools.site.tables import kinds, platforms, to_kernel

NO_KERNEL = "No kernel takes weights with it."


@functools.cache
def words() -> YamlSource:
    """The packaged vocabulary with its lines."""
    return read_yaml(packaged_rules() / VOCABULARY)


def sets_page() -> str:
    """Named sets and features, and the kernels that support each."""
    sets = [
        [code(f"${name}"), ", ".join(map(code, values)), place(words().key_at(("sets", name)))]
        for name, values in vocabulary().sets.items()
    ]
    features = document(
        "What a kernel may list in `supports`. For any that it does not list, the vocabulary says "
        "what has to hold instead.",
        *(_feature(name, feature) for name, feature in vocabulary().features.items()),
    )
    return document(
        heading(1, "Named sets and features"),
        section(2, "Sets", table(["set", "values", "line"], sets)),
        section(2, "Features", features.rstrip()),
    )


def _feature(name: str, feature: Feature) -> str:
    without = " and ".join(
        f"{fact(other)} is {code(in_words(value))}" for other, value in feature.without.items()
    )
    return document(
        heading(3, name),
        f"{feature.meaning} A kernel that does not list it is for layers where {without} "
        f"({place(words().key_at(('features', name)))})."
        + (f" Only {feature.kind} kernels are asked." if feature.kind else "")
        + " Supported by:",
        _kernels(lambda platform, kernel: _supports(platform, kernel, feature)) or "- no kernel",
    ).rstrip()


def _supports(platform: str, kernel: Kernel, feature: Feature) -> bool:
    return feature.kind in (None, kinds(platform)[kernel.name]) and all(
        clause.fact not in feature.without for clause in lacking(kernel.condition)
    )


def _kernels(serves: Callable[[str, Kernel], bool]) -> str:
    """Some kernels as a list, by platform."""
    lines = []
    for platform, rules in platforms().items():
        names = sorted(name for name, kernel in rules.kernels.items() if serves(platform, kernel))
        if names:
            lines.append(f"- {platform}: {', '.join(to_kernel(platform, n) for n in names)}")
    return "\n".join(lines)


def keys_page() -> str:
    """The named quantization keys, and the kernels that take weights of each."""
    rows = [
        [
            code(name),
            key.dtype + ("" if key.symmetric else ", asymmetric"),
            key.scale.dtype,
            "the checkpoint" if key.scale.static else "the values, at run time",
            _extent(key.scale),
            f"{key.scale2.dtype}, {_extent(key.scale2)}" if key.scale2 else "",
        ]
        for name, key in NAMED_KEYS.items()
    ]
    head = ["key", "values", "scales", "scales are from", "one scale for", "second scale"]
    taken = [
        section(3, code(name), _kernels(_taking(key)) or NO_KERNEL)
        for name, key in [("none", None), *NAMED_KEYS.items()]
    ]
    return document(
        heading(1, "Quantization keys"),
        "Ways to quantize weights or activations, by vLLM's names. A rule may name one, or say "
        "what its parts have to be ([docs/rules.md](/docs/rules.md#conditions)).",
        table(head, rows),
        section(2, "Kernels by the key of their weights", document(*taken).rstrip()),
    )


def _extent(scale: Scale) -> str:
    named = scale.group_shape in (TENSOR, TOKEN, CHANNEL)
    return scale.shape_name if named else f"{scale.shape_name} values"


def _taking(key: QuantKey | None) -> Callable[[str, Kernel], bool]:
    """Whether one of a kernel's schemes is for weights with this key."""
    return lambda _, kernel: any(
        not isinstance(scheme.weight, Anything) and scheme.weight.holds(key, {})
        for part in parts(kernel.condition)
        if isinstance(part, Schemes)
        for scheme in part.schemes
    )
