"""What the rule tables claim of this package's kernels, combination by combination.

A claim is a layer that a kernel's condition accepts on an ideal machine of some platform: a
scheme, an activation, with or without bias and expert parallelism. The tables' own evaluator
decides. :func:`claims` lists those to execute and counts the others by reason.
"""

import itertools
from dataclasses import dataclass, replace

from moe_kernels.quantization.schemes import quantization_format
from moe_kernels.registry import our_names, runs_on_cpu

from moe_rules.language.rules import ValueOf
from moe_rules.language.ruleset import load_platform
from moe_rules.selectors.facts import layer_facts
from moe_rules.vocabulary.facts import ACTIVATIONS, FACTS, REQUEST_DEFAULTS
from moe_rules.vocabulary.layer import FusedMoEConfig, FusedMoEParallelConfig
from moe_rules.vocabulary.quant_keys import NAMED_KEYS, QuantKey, Scale

MACHINES = {
    "cuda": [{"device": "cuda", "compute_capability": (9, 0)}],
    "rocm": [{"device": "rocm", "gfx": "gfx950"}],
    "xpu": [{"device": "xpu"}],
    "cpu": [
        {"cpu_arch": "x86", "amx_tile": True, "amx_fp8": True, "zen": False},
        {"cpu_arch": "x86", "amx_tile": False, "amx_fp8": False, "zen": True},
        {"cpu_arch": "arm", "amx_tile": False, "amx_fp8": False, "zen": False},
        {"cpu_arch": "powerpc", "amx_tile": False, "amx_fp8": False, "zen": False},
    ],
}
CONSTANTS = {"swiglu_limit": 1.5, "activation_situ_beta": 1.3, "activation_situ_linear_beta": 2.0}
ROUTINGS = ("Renormalize", "Default")

# Keys whose names stand for one value each, and a block shape that has no name.
WEIGHT_KEYS = [None, QuantKey("fp8_e4m3", Scale("fp32", True, (64, 32)))]
WEIGHT_KEYS += list(dict.fromkeys(key for key in NAMED_KEYS.values() if key.scale.static))
ACTIVATION_KEYS = [None, *dict.fromkeys(NAMED_KEYS.values())]

OCP_MX = {"mxfp4", "mxfp6_e3m2", "mxfp6_e2m3"}


@dataclass(frozen=True)
class Claim:
    kernel: str
    oracle: str | None
    weight_key: QuantKey | None
    activation_key: QuantKey | None
    activation: str
    in_dtype: str
    bias: bool
    expert_map: bool
    routing: str

    @property
    def on_cpu(self):
        return runs_on_cpu(self.kernel)

    @property
    def scheme(self):
        return f"{self.weight_key} x {self.activation_key}"

    def __str__(self):
        keys = f"{self.weight_key}-{self.activation_key}-{self.activation}-{self.in_dtype}"
        flags = f"{'-bias' if self.bias else ''}{'-map' if self.expert_map else ''}"
        return f"{self.kernel}-{keys}{flags}"

    def config(self):
        parallel = FusedMoEParallelConfig(
            ep_size=2 if self.expert_map else 1, use_ep=self.expert_map
        )
        return FusedMoEConfig(
            5,
            2,
            128,
            128,
            self.activation,
            self.routing,
            self.in_dtype,
            moe_parallel_config=parallel,
            has_bias=self.bias,
            **CONSTANTS,
        )


def _facts(rules, machine, config, activation_format):
    """Every fact but the keys; all software is there, and switches are unset."""
    facts = dict.fromkeys(rules.facts)
    facts |= {"os": "linux", "device_name": "", "device": rules.platform}
    facts |= {name: True for name, fact in FACTS.items() if fact.group == "software"}
    facts |= REQUEST_DEFAULTS | layer_facts(config) | machine
    for derived in rules.derived:
        for condition, value in derived.cases:
            if condition.holds(facts):
                facts[derived.fact.name] = (
                    facts[value.fact] if isinstance(value, ValueOf) else value
                )
                break
    facts |= {"activation_format": activation_format}
    del facts["weight_key"], facts["activation_key"]
    return facts


def _oracle_of(rules, kernel):
    """The oracle that uses a kernel whose class shares its name with another's; else None."""
    if kernel.name == kernel.class_name:
        return None
    for name, oracle in rules.oracles.items():
        for backend in oracle.backends.values():
            if any(choice.kernel.name == kernel.name for choice in backend.choices):
                return name
    return None


def not_executed(kernel, weight_key, activation_key):
    """Why a claimed scheme means nothing to execute, or None."""
    if kernel == "OCP_MXQuantizationEmulationTritonExperts" and not _is_ocp_mx(
        weight_key, activation_key
    ):
        return "the table claims every scheme, the class (as vLLM's) executes OCP MX"
    if kernel == "TritonWNA16Experts" and activation_key is not None:
        return "the table claims every activation key, the class leaves activations as they are"
    return None


def _is_ocp_mx(weight_key, activation_key):
    """MXFP4 weights with any small float, MXFP6 with the same; either with FP8 or none."""
    if weight_key not in _OF_NAME.values() or activation_key not in _OF_NAME.values():
        return False
    weight = None if weight_key is None else quantization_format(weight_key)
    if weight not in OCP_MX or activation_key is None:
        return weight in OCP_MX
    activation, scale = quantization_format(activation_key), activation_key.scale
    if activation == "fp8":
        return scale.shape_name == "tensor"
    return not scale.static and activation in (OCP_MX if weight == "mxfp4" else {weight})


_OF_NAME = {None: None} | {n: k for n, k in NAMED_KEYS.items() if "E8M0" not in n}


class _Entry:
    """One table entry on one platform's machines."""

    def __init__(self, rules, kernel, machines):
        self.rules, self.kernel, self.machines = rules, kernel, machines
        self.oracle = _oracle_of(rules, kernel)
        self.format = "batched" if kernel.class_name.startswith("Batched") else "standard"
        self.folded = {}

    def accepts(self, claim):
        """Whether the condition holds on one of the machines."""
        layer = replace(claim, weight_key=None, activation_key=None)
        if layer not in self.folded:
            config = layer.config()
            self.folded[layer] = [
                self.kernel.condition.fold(_facts(self.rules, machine, config, self.format), ())
                for machine in self.machines
            ]
        keys = {"weight_key": claim.weight_key, "activation_key": claim.activation_key}
        return any(condition.holds(keys) for condition in self.folded[layer])

    def claims(self, dtypes, skipped):
        name = self.kernel.class_name
        plain = Claim(name, self.oracle, None, None, "silu", "bf16", False, False, "Renormalize")
        # Every kernel takes silu or swigluoai; of the dtypes, the first that it takes.
        starts = [
            replace(plain, activation=activation, in_dtype=dtype, routing=routing)
            for activation, dtype, routing in itertools.product(
                ("silu", "swigluoai"), dtypes, ROUTINGS
            )
        ]
        for weight_key, activation_key in itertools.product(WEIGHT_KEYS, ACTIVATION_KEYS):
            keys = {"weight_key": weight_key, "activation_key": activation_key}
            start = next((c for c in starts if self.accepts(replace(c, **keys))), None)
            if start is None:
                continue
            reason = not_executed(name, weight_key, activation_key)
            if reason is not None:
                skipped.setdefault((name, reason), set()).add((weight_key, activation_key))
                continue
            for activation, bias, mapped in itertools.product(
                ACTIVATIONS, (False, True), (False, True)
            ):
                claim = replace(start, **keys, activation=activation, bias=bias, expert_map=mapped)
                if self.accepts(claim):
                    yield claim


def claims(on_gpu):
    """(claims to execute, schemes that mean nothing to execute by (kernel, reason))."""
    found, skipped = {}, {}
    for platform, machines in MACHINES.items():
        rules = load_platform(platform)
        for kernel in rules.kernels.values():
            if kernel.class_name in our_names():
                # The interpreter multiplies bf16 wrongly.
                bf16 = on_gpu or runs_on_cpu(kernel.class_name)
                dtypes = ("bf16", "fp16", "fp32") if bf16 else ("fp16", "fp32")
                entry = _Entry(rules, kernel, machines)
                found |= dict.fromkeys(entry.claims(dtypes, skipped))
    return list(found), {where: len(schemes) for where, schemes in skipped.items()}
