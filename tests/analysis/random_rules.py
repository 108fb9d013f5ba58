"""Random small rule sets with every construct of the language, and random deployments for them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import yaml
from hypothesis import reject
from hypothesis import strategies as st

from moe_rules.files.problems import RuleFileError
from moe_rules.language.rules import PlatformRules
from moe_rules.language.ruleset import load_platform
from moe_rules.vocabulary.fact_values import Fact, FactValue
from moe_rules.vocabulary.facts import ACTIVATIONS, FACTS
from moe_rules.vocabulary.quant_keys import NAMED_KEYS, QuantKey, Scale

BACKENDS = ("ONE", "TWO", "THREE", "FOUR")
KERNELS = ("AExperts", "BExperts", "CExperts", "DExperts", "EExperts")
REQUESTS = ("one", "two", "three")
KEYS = ("kFp8StaticTensorSym", "kFp8Static128BlockSym", "kMxfp4Static", "kInt8Static")
ACTIVATION_KEYS = ("kFp8Dynamic128Sym", "kMxfp8Dynamic")

_mapping = st.fixed_dictionaries


def _version() -> st.SearchStrategy[Any]:
    return st.sampled_from(
        ["9.0", "9.*", "10.3", ">=8.9", "<12.0", ">=9.0 <10.1", ["9.0", "10.*"], {"not": "10.*"}]
    )


def _key(names: tuple[str, ...]) -> st.SearchStrategy[Any]:
    name = st.sampled_from([*names, "none"])
    pattern = st.sampled_from(
        [
            {"dtype": "fp8_e4m3"},
            {"dtype": "fp8_e4m3", "scale": {"rows": ">1", "columns": ">1"}},
            {"dtype": ["uint8", "int8"], "symmetric": True, "scale2": "none"},
            {"scale": {"static": True, "dtype": "fp32", "rows": -1}},
        ]
    )
    return st.one_of(name, st.lists(name, min_size=1, max_size=2), pattern)


TESTS: dict[str, st.SearchStrategy[Any]] = {
    "compute_capability": _version(),
    "deep_gemm": st.booleans(),
    "humming": st.booleans(),
    "num_experts": st.sampled_from(["<=64", ">8", ">8 <=64", 128, {"multiple_of": 8}]),
    "hidden_dim": st.sampled_from(
        [{"multiple_of": 128}, {"multiple_of": 48}, {"multiple_of": "group_size"}, "<4096"]
    ),
    "group_size": st.sampled_from([128, [32, 64], -1, "none", ">0", {"not": 32}]),
    "num_tokens": st.sampled_from(["<=64", ">64", ">=16 <128"]),
    "activation": st.sampled_from(["silu", "$no_mul", ["gelu", "situ"], "s*", {"not": "silu"}]),
    "swiglu_limit": st.sampled_from(["none", {"not": "none"}, 7.0, ">1.5"]),
    "use_ep": st.booleans(),
    "dp_size": st.sampled_from([1, ">1"]),
    "all2all_backend": st.sampled_from(["naive", "deepep*"]),
    "all2all": st.sampled_from(["none", "$batched_all2all", "deepep*", {"not": "naive"}]),
    "activation_format": st.sampled_from(["standard", "batched"]),
    "VLLM_USE_DEEP_GEMM": st.sampled_from(["set", "unset", True, False]),
    "weight_key": _key(KEYS),
    "activation_key": st.one_of(
        _key(ACTIVATION_KEYS),
        st.sampled_from(
            [
                {"same_as": "moe_activation_override"},
                {"not": {"same_as": "moe_activation_override"}},
            ]
        ),
    ),
    "moe_activation_override": _key(ACTIVATION_KEYS),
    "moe_backend": st.sampled_from(["auto", "one", {"not": "two"}]),
    "model_role": st.sampled_from(["target", "draft"]),
}
"""Facts that the rules test, and tests of each."""


def _facts(tests: dict[str, st.SearchStrategy[Any]], most: int) -> st.SearchStrategy[Any]:
    names = st.lists(st.sampled_from(sorted(tests)), min_size=1, max_size=most, unique=True)
    return names.flatmap(lambda chosen: _mapping({name: tests[name] for name in chosen}))


def conditions() -> st.SearchStrategy[dict[str, Any]]:
    """A ``when`` or ``requires``."""
    flat = _facts(TESTS, 3)
    joined = st.tuples(
        st.sampled_from(["any", "all", "not"]), st.lists(flat, min_size=1, max_size=3)
    ).map(lambda pair: {pair[0]: pair[1][0] if pair[0] == "not" else pair[1]})
    return st.one_of(flat, flat, joined, st.builds(lambda a, b: {**a, **b}, flat, joined))


_names = st.lists(st.sampled_from(BACKENDS), min_size=1, max_size=2, unique=True)
_assumed = st.one_of(
    st.builds(lambda key: {"activation_key": key}, st.sampled_from([*ACTIVATION_KEYS, "none"])),
    st.just({"activation_key": {"value_of": "moe_activation_override"}}),
    st.just({"weight_key": "kMxfp4Static"}),
    st.just({"group_size": 32}),
    st.builds(lambda has: {"deep_gemm": has}, st.booleans()),
)


def _when(rule: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    without = rule
    return st.one_of(st.builds(lambda a, when: {"when": when, **a}, rule, conditions()), without)


_adjustments = _when(
    st.one_of(
        st.builds(
            lambda action, names: {action: names},
            st.sampled_from(["first", "last", "drop", "withdraw"]),
            _names,
        ),
        st.permutations(BACKENDS).flatmap(
            lambda order: st.sampled_from(
                [{"move": order[0], "before": order[1]}, {"move": order[0], "after": order[1]}]
            )
        ),
    )
)
_backend = st.sampled_from(BACKENDS)
_kernels = st.lists(st.sampled_from(KERNELS), min_size=1, max_size=2, unique=True)
_steps = _when(
    st.one_of(
        st.builds(lambda action, name: {action: name}, st.sampled_from(["take", "try"]), _backend),
        st.builds(
            lambda action, name, kernels, assume: {
                action: name,
                "kernels": kernels,
                "assume": assume,
            },
            st.sampled_from(["try", "force"]),
            _backend,
            _kernels,
            _assumed,
        ),
        st.builds(
            lambda name, error: {"force": name, "error": error},
            _backend,
            st.sampled_from(["not_supported", "invalid_request"]),
        ),
        st.just({"refuse": "no"}),
        st.builds(lambda names: {"drop": names}, _names),
    )
)
_cases = st.lists(
    _when(
        st.one_of(
            st.just({"use": "auto"}),
            st.builds(lambda names: {"use": names}, _names),
            st.builds(lambda names, assume: {"use": names, "assume": assume}, _names, _assumed),
            st.builds(lambda names: {"use": names, "variants": "all"}, _names),
        )
    ),
    min_size=1,
    max_size=2,
)
_choices = st.lists(
    st.one_of(
        st.sampled_from(KERNELS),
        st.builds(
            lambda kernel, when: {"kernel": kernel, "when": when},
            st.sampled_from(KERNELS),
            conditions(),
        ),
    ),
    min_size=1,
    max_size=2,
)
_backends = st.builds(
    lambda kernels, requires, assume: {
        "kernels": kernels,
        **({"requires": requires} if requires else {}),
        **({"assume": assume} if assume else {}),
    },
    _choices,
    st.one_of(st.none(), conditions()),
    st.one_of(st.none(), _assumed),
)
_scheme = st.builds(
    lambda weight, activation: {"weight": weight, "activation": activation},
    _key(KEYS),
    st.one_of(_key(ACTIVATION_KEYS), st.just({"same_as": "moe_activation_override"})),
)
_tables = st.builds(
    lambda supports, schemes, requires: {
        "supports": supports,
        **({"schemes": schemes} if schemes else {}),
        **({"requires": requires} if requires else {}),
    },
    st.lists(st.sampled_from(["lora", "no_act_and_mul"]), max_size=2, unique=True),
    st.lists(_scheme, max_size=2),
    st.one_of(st.none(), conditions()),
)


@st.composite
def rule_files(draw: st.DrawFn) -> dict[str, Any]:
    """A rule file with one oracle, fp8 on cuda."""
    few = {"max_size": 2}
    oracle: dict[str, Any] = {
        "priority": draw(st.permutations(BACKENDS)),
        "assume": draw(st.lists(_when(st.builds(lambda values: {"set": values}, _assumed)), **few)),
        "shortcuts": draw(st.lists(_steps, **few)),
        "requests": {name: draw(_cases) for name in draw(st.sets(st.sampled_from(REQUESTS)))},
        "switches": draw(st.lists(_steps, **few)),
        "adjust": draw(st.lists(_adjustments, max_size=3)),
        "backends": {name: draw(_backends) for name in BACKENDS},
        "otherwise": draw(st.sampled_from([{"backend": "FOUR"}, {"error": "not_supported"}])),
    }
    if draw(st.booleans()):
        fallback = draw(st.sampled_from(["none", "kMxfp8Dynamic"]))
        oracle["variants"] = {"by": "activation_key", "fallback": fallback}
    file: dict[str, Any] = {
        "platform": "cuda",
        "oracles": {"fp8": oracle},
        "kernels": {name: draw(_tables) for name in KERNELS},
    }
    if oracle["requests"] and draw(st.booleans()):
        names = st.sampled_from([*oracle["requests"], "auto"])
        keys = ["fp8", "target", "draft", "draft.fp8"]
        file["requested"] = draw(st.dictionaries(st.sampled_from(keys), names, max_size=2))
    return file


def load(file: dict[str, Any]) -> PlatformRules:
    """The rules of a rule file; where adjustments contradict, another example is drawn."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "cuda.yaml").write_text(yaml.safe_dump(file, sort_keys=False))
        try:
            return load_platform("cuda", packaged=Path(folder))
        except RuleFileError as error:
            codes = {problem.code for problem in error.problems}
            if codes <= {"contradictory-adjustment", "cyclic-adjustment"}:
                reject()
            raise


# Deployments: values near what rules ask, made without the classes that are tested with them.

_NUMBERS = st.one_of(
    st.sampled_from([1, 7, 8, 9, 16, 32, 48, 63, 64, 65, 128, 384, 992, 993, 2048, 4095, 4096]),
    st.builds(lambda a, b: a * b, st.sampled_from([1, 8, 24, 32, 48, 64, 128]), st.integers(1, 9)),
    st.integers(1, 10_000),
)
_ODD_KEYS = st.builds(
    QuantKey,
    st.sampled_from(["fp8_e4m3", "uint8", "int8", "uint4b8", "uint4", "odd"]),
    st.builds(
        Scale,
        st.sampled_from(["fp32", "fp16", "odd"]),
        st.booleans(),
        st.tuples(st.sampled_from([-1, 1, 64, 128]), st.sampled_from([-1, 1, 32, 128])),
    ),
    st.one_of(st.none(), st.just(Scale("fp32", True, (-1, -1)))),
    st.booleans(),
)


def values_of(fact: Fact) -> st.SearchStrategy[FactValue]:
    """Any value of a fact, likely ones first."""
    none: st.SearchStrategy[FactValue] = st.none() if fact.nullable else st.nothing()
    found: st.SearchStrategy[FactValue]
    match fact.type:
        case "bool":
            found = st.booleans()
        case "switch":
            found = st.sampled_from([None, True, False])
        case "int":
            found = st.one_of(_NUMBERS, st.sampled_from([-1, 128])) if fact.nullable else _NUMBERS
        case "float":
            found = st.sampled_from([0.5, 1.0, 1.5, 1.702, 4.0, 7.0, 25.0, 99.5])
        case "enum":
            found = st.sampled_from(fact.values)
        case "string":
            words = {"moe_backend": ("auto", *REQUESTS, "odd")}.get(fact.name, fact.values)
            found = st.sampled_from([*words, "odd", *ACTIVATIONS[:1]])
        case "version":
            found = st.tuples(st.integers(7, 13), st.sampled_from([0, 1, 3, 9]))
        case "quant_key":
            named = (*KEYS, *ACTIVATION_KEYS, *NAMED_KEYS)
            found = st.one_of(st.sampled_from([NAMED_KEYS[name] for name in named]), _ODD_KEYS)
    return st.one_of(found, none)


def deployments(names: list[str]) -> st.SearchStrategy[dict[str, FactValue]]:
    """A value for each of some facts; those of one call may be absent."""
    always = {name: values_of(FACTS[name]) for name in names if not FACTS[name].per_call}
    sometimes = {name: values_of(FACTS[name]) for name in names if FACTS[name].per_call}
    return st.fixed_dictionaries(always, optional=sometimes)
