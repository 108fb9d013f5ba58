"""Compares the life of a layer through this package's oracles with vLLM's own, backend by backend.

Run as ``python -m tests.vllm.layer_life FILE.jsonl.gz``: simulates the platform of the recorded
cases and takes tiny layers through conversion, quantization config and kernel, twice: by vLLM's
functions, called as its quantization methods call them, and by an oracle. Prints one JSON object:
for each step how often both gave the same, where they differ, and where both fail alike (most
conversions for GPUs run on GPUs only).
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import json
import logging
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.vllm.checkpoint_schemes import EXPERTS, HIDDEN, INTERMEDIATE, SCHEMES, Scheme
from tests.vllm.parity import ORACLES, machine, oracle_classes, read_cases
from tools.record import places, simulation


def main() -> None:
    cases = read_cases([Path(path) for path in sys.argv[1:]])
    platform = cases[0]["platform"]
    software = max((c["software"] for c in cases), key=lambda world: sum(world.values()))
    world = simulation.start(platform)
    world.set(software)
    logging.disable(logging.CRITICAL)
    _stay_on_the_cpu()
    from moe_rules.oracles.base import MoEKernelOracle

    classes = oracle_classes(MoEKernelOracle)
    report: dict[str, Any] = {"same": Counter(), "differ": [], "both fail": {}, "alphas": {}}
    for name, scheme in SCHEMES.items():
        oracle = classes[scheme.oracle](machine(platform, software))
        for backend in _backends(oracle):
            _compare(f"{name}, {backend.name}", scheme, oracle, backend, report)
    print(json.dumps(report))


def _stay_on_the_cpu() -> None:
    """Let conversions that go to the GPU and back stay here, and operators find their settings."""
    import torch
    from vllm.config import CompilationConfig, get_current_vllm_config

    torch.Tensor.cuda = lambda self, *args, **kwargs: self
    get_current_vllm_config().compilation_config = CompilationConfig()


def _backends(oracle: Any) -> list[Any]:
    """vLLM's members of the backends that the platform has kernels for."""
    from moe_rules.oracles.vllm_objects import vllm_member

    declared = oracle.vllm.selector().rules.oracles[oracle.name].backends
    members = oracle.backend_enum_cls().__members__
    return [vllm_member(members[name]) for name, b in declared.items() if b.choices]


def _compare(name: str, scheme: Scheme, oracle: Any, backend: Any, report: dict[str, Any]) -> None:
    import torch

    torch.manual_seed(0)
    tensors = scheme.tensors()
    theirs = _outcome(_by_vllm, scheme, oracle, backend, copy.deepcopy(tensors))
    ours = _outcome(_by_oracle, scheme, oracle, backend, copy.deepcopy(tensors))
    for step in ("conversion", "quant config", "kernel"):
        if step not in theirs or step not in ours:
            if (step in theirs) != (step in ours):
                report["differ"].append(
                    [name, step, str(theirs.get("error")), str(ours.get("error"))]
                )
            elif type(theirs["error"]) is type(ours["error"]):
                kind = f"{step}: {type(theirs['error']).__name__}: {str(theirs['error'])[:60]}"
                report["both fail"].setdefault(kind, []).append(name)
            else:
                report["differ"].append([name, step, repr(theirs["error"]), repr(ours["error"])])
            return
        if same(theirs[step], ours[step]):
            report["same"][step] += 1
        else:
            report["differ"].append([name, step, str(theirs[step])[:200], str(ours[step])[:200]])
    if "alphas" in theirs:
        report["alphas"][name] = [theirs["alphas"], ours["alphas"]]


def _outcome(life: Any, *arguments: Any) -> dict[str, Any]:
    done: dict[str, Any] = {}
    try:
        life(done, *arguments)
    except Exception as error:
        done["error"] = error
    return done


def _layer(scheme: Scheme, config: Any, tensors: Mapping[str, Any]) -> Any:
    """A module with what conversions and experts read of vLLM's layer."""
    import torch

    from moe_rules.oracles.vllm_functions import IN_LAYER

    layer = torch.nn.Module()
    for name, tensor in tensors.items():
        parameter = torch.nn.Parameter(tensor, requires_grad=False)
        layer.register_parameter(IN_LAYER[name], parameter)
    block = scheme.constants.get("block_shape")
    if block is not None:
        layer.weight_block_size = block
    facts = {
        "moe_config": config,
        "activation": config.activation,
        "renormalize": True,
        "custom_routing_function": None,
        "hidden_size": HIDDEN,
        "intermediate_size_per_partition": INTERMEDIATE,
        "num_experts": EXPERTS,
        "local_num_experts": EXPERTS,
        "params_dtype": torch.bfloat16,
        "orig_dtype": torch.bfloat16,
        "group_size": scheme.constants.get("group_size"),
        "apply_router_weight_on_input": False,
        "scoring_func": "softmax",
        "e_score_correction_bias": None,
    }
    for name, value in facts.items():
        setattr(layer, name, value)
    return layer


def _config(scheme: Scheme, backend: Any) -> Any:
    from tools.record.objects import layer as vllm_layer

    moe = {
        "num_experts": EXPERTS,
        "experts_per_token": 1,
        "hidden_dim": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "intermediate_size_per_partition": INTERMEDIATE,
        "activation": scheme.activation,
        "routing_method": "Renormalize",
        "in_dtype": "bf16",
        "router_logits_dtype": None,
        "parallel": {
            **dict.fromkeys(("tp_size", "pcp_size", "dp_size", "ep_size", "sp_size"), 1),
            "use_ep": False,
            "all2all_backend": "allgather_reducescatter",
            "enable_eplb": False,
        },
    }
    return vllm_layer(moe)


def _things(scheme: Scheme, backend: Any, tensors: Mapping[str, Any]) -> dict[str, Any]:
    from compressed_tensors.quantization import QuantizationArgs

    from moe_rules.oracles.vllm_objects import vllm_quant_key
    from moe_rules.vocabulary.quant_keys import NAMED_KEYS

    config = _config(scheme, backend)
    keys = [k and vllm_quant_key(NAMED_KEYS[k]) for k in (scheme.weight_key, scheme.activation_key)]
    return {
        **dict.fromkeys(("w13_bias", "w2_bias", "a13_scale", "a2_scale", "w13_zp", "w2_zp")),
        **dict.fromkeys(("input_dtype", "routing_tables", "b_strides1", "b_strides2")),
        "backend": backend,
        "moe_config": config,
        "layer": _layer(scheme, config, tensors),
        "weight_key": keys[0],
        "activation_key": keys[1],
        "activation": config.activation,
        "is_act_and_mul": config.is_act_and_mul,
        "use_separated_a4w4": False,
        "_cache_permute_indices": {},
        "quant_config": QuantizationArgs(
            num_bits=4, type="int", symmetric=True, strategy="group", group_size=32
        ),
        **scheme.constants,
        **tensors,
    }


def _by_vllm(done: dict[str, Any], scheme: Scheme, oracle: Any, backend: Any, t: Any) -> None:
    """As vLLM's quantization methods: convert, put into the layer, describe, build, process."""
    import torch
    from vllm.model_executor.utils import replace_parameter

    from moe_rules.oracles.vllm_functions import FUNCTIONS, IN_LAYER

    functions, things = FUNCTIONS[scheme.oracle], _things(scheme, backend, t)
    layer = things["layer"]
    things |= {n: getattr(layer, IN_LAYER[n]) for n in t}
    gpt_oss = scheme.more.get("quantization_method") in ("gpt_oss_mxfp4", "quark")
    path = functions.convert.replace("convert_weight_to", "convert_gpt_oss_weight_to")
    result = _call(path if gpt_oss else functions.convert, scheme.convert, things)
    things |= dict(zip(functions.converted, result or (), strict=False))
    done["conversion"] = copy.deepcopy(result)
    for name, parameter in IN_LAYER.items():
        if name in functions.converted and isinstance(things[name], torch.Tensor) and result:
            replace_parameter(layer, parameter, things[name])
            things[name] = getattr(layer, parameter)
    things["moe_quant_config"] = _call(functions.make_quant_config, scheme.describe, things)
    done["quant config"] = copy.deepcopy(things["moe_quant_config"])
    things["experts_cls"] = _experts(backend, oracle)
    kernel = _call(functions.make_kernel, scheme.build, things)
    if scheme.oracle in ("unquantized", "int8", "mxfp4", "mxfp4_deepseek_v4", "nvfp4"):
        kernel.fused_experts.process_weights_after_loading(layer)
    _note(done, kernel)


def _by_oracle(done: dict[str, Any], scheme: Scheme, oracle: Any, backend: Any, t: Any) -> None:
    things = _things(scheme, backend, t)
    config, layer = things["moe_config"], things["layer"]
    takes = _parameters(oracle.name)
    more = {n: things[n] for n in ("layer", "quant_config") if n in takes["convert"]}
    keys = {"weight_key": things["weight_key"], "activation_key": things["activation_key"]}
    weights = oracle.convert_to_kernel_format(
        *(backend, config, t.pop("w13"), t.pop("w2")), **keys, **t, **more, **scheme.more
    )
    from moe_rules.oracles.vllm_functions import FUNCTIONS

    every = {**weights._asdict(), **weights.others}
    done["conversion"] = copy.deepcopy(tuple(every[n] for n in FUNCTIONS[oracle.name].converted))
    told = {"layer": layer} if "layer" in takes["describe"] else {}
    quant_config = oracle.make_quant_config(backend, weights, keys["activation_key"], **told)
    done["quant config"] = copy.deepcopy(quant_config)
    made = {
        n: every.get(n) for n in ("b_strides1", "b_strides2", "group_size") if n in takes["build"]
    }
    experts_cls = oracle.backend_to_kernel_cls(backend)[0]
    kernel = oracle.make_kernel(quant_config, config, backend, experts_cls, layer=layer, **made)
    _note(done, kernel)


def _parameters(oracle: str) -> dict[str, Any]:
    import inspect

    from moe_rules.oracles.vllm_functions import FUNCTIONS

    functions = FUNCTIONS[oracle]
    paths = {
        "convert": functions.convert,
        "describe": functions.make_quant_config,
        "build": functions.make_kernel,
    }
    return {step: inspect.signature(_function(path)).parameters for step, path in paths.items()}


def _experts(backend: Any, oracle: Any) -> type:
    """The first class of vLLM's own list."""
    module = "mxfp8" if oracle.name == "mxfp8" else type(backend).__module__.rpartition(".")[2]
    name = "_mxfp8_backend_to_kernel_cls" if module == "mxfp8" else "backend_to_kernel_cls"
    return getattr(importlib.import_module(f"{ORACLES}.{module}"), name)(backend)[0]


def _note(done: dict[str, Any], kernel: Any) -> None:
    experts = kernel.fused_experts
    parts = (type(kernel), type(experts), type(kernel.prepare_finalize))
    config = experts.quant_config
    done["kernel"] = (*parts, copy.deepcopy(config))
    if config is not None and config.g1_alphas is not None:
        done["alphas"] = config.g1_alphas.flatten()[0].item()


def _function(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(f"{places.FUSED_MOE}.{module}"), name)


def _call(path: str, arguments: str, things: Mapping[str, Any]) -> Any:
    pairs = (pair.partition("=") for pair in arguments.split())
    return _function(path)(**{name: things[thing or name] for name, _, thing in pairs})


def same(a: Any, b: Any) -> bool:
    """Equal in type and value, tensors and dataclasses inside too."""
    import torch

    if isinstance(a, torch.Tensor):
        return (
            isinstance(b, torch.Tensor)
            and (a.dtype, a.shape) == (b.dtype, b.shape)
            and torch.equal(_bytes(a), _bytes(b))
        )
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(same, a, b))
    if dataclasses.is_dataclass(a) and not isinstance(a, type):
        return type(a) is type(b) and all(
            same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a)
        )
    if type(a).__module__.startswith("triton_kernels") or "triton_kernels" in type(a).__module__:
        return type(a) is type(b) and same(sorted(vars(a).items()), sorted(vars(b).items()))
    return bool(a == b)


def _bytes(tensor: Any) -> Any:
    import torch

    return tensor.detach().reshape(-1).contiguous().view(torch.uint8)


if __name__ == "__main__":
    main()
