"""The plugin in vLLM's own Python, on simulated platforms."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from moe_rules.conformance.run import load_comparer, run_file
from tests.vllm.processes import answer, python

SAMPLES = Path(__file__).parents[1] / "samples" / "dev"
PLATFORMS = ("cuda-sm90", "cuda-sm100", "rocm-gfx942")

START = """
import json, sys
from tools.record import simulation
"""
SM90 = """
world = simulation.start({"kind": "cuda", "capability": [9, 0], "device": "H100"})
world.set({})
"""
LOAD = """
import vllm.plugins
vllm.plugins.load_general_plugins()
"""
FORGET = """
for name in [name for name in sys.modules if name.partition(".")[0] == "vllm"]:
    del sys.modules[name]  # so that a platform can still be simulated; the plugin is loaded
"""
CALLERS = """
import importlib, pkgutil
import vllm.model_executor.layers.quantization as quantization
names = [m.name for m in pkgutil.walk_packages(quantization.__path__, quantization.__name__ + ".")]
for name in [*names, "vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method"]:
    try:
        importlib.import_module(name)
    except ImportError:  # of hardware that is not simulated
        pass
"""
HOLDERS = """
from moe_rules.integrations.vllm.replacing import original_of
held = {}
for name, module in list(sys.modules.items()):
    if name.startswith("vllm.") and module is not None:
        for attribute, value in list(vars(module).items()):
            if attribute.startswith("select_") and attribute.endswith("_moe_backend"):
                once = original_of(value) is not None and original_of(original_of(value)) is None
                held.setdefault(attribute, []).append([name, once])
print(json.dumps(held))
"""
SELECTORS = {
    "select_unquantized_moe_backend",
    "select_fp8_moe_backend",
    "select_int8_moe_backend",
    "select_wna16_moe_backend",
    "select_mxfp4_moe_backend",
    "select_deepseek_v4_mxfp4_moe_backend",
    "select_mxfp8_moe_backend",
    "select_nvfp4_moe_backend",
    "select_w4a8_moe_backend",
    "select_w4a8_int8_moe_backend",
}


@pytest.mark.parametrize("mode", ["on", "shadow"])
@pytest.mark.parametrize(
    "code",
    [
        pytest.param(START + SM90 + CALLERS + LOAD, id="vLLM first"),
        pytest.param(START + LOAD + FORGET + SM90 + CALLERS + LOAD, id="plugin first"),
    ],
)
def test_ten_selectors_in_every_module_that_holds_them(code: str, mode: str) -> None:
    held = answer(code + HOLDERS, MOE_RULES_VLLM=mode)
    assert set(held) == SELECTORS
    assert sum(map(len, held.values())) > 30
    assert [holder for holders in held.values() for holder in holders if not holder[1]] == []


def test_off_replaces_nothing() -> None:
    held = answer(START + SM90 + CALLERS + LOAD + HOLDERS)
    assert set(held) == SELECTORS
    assert [holder for holders in held.values() for holder in holders if holder[1]] == []


@pytest.mark.parametrize("platform", PLATFORMS)
def test_selects_what_vllm_selects(platform: str) -> None:
    path = SAMPLES / f"{platform}.jsonl.gz"
    found = json.loads(python("-m", "tests.vllm.plugin_parity", platform, str(path)).stdout)
    assert found["differences"] == []
    assert found["selected"] > 20
    assert found["refused"] > 10


CALL = """
import logging
logging.disable(logging.NOTSET)
class Lines(logging.Handler):
    lines = []
    def emit(self, record):
        self.lines.append(record.getMessage())
logging.getLogger("vllm.moe_rules").addHandler(Lines())
logging.getLogger("vllm.moe_rules").setLevel("INFO")
from tools.record import objects
from vllm.model_executor.layers.fused_moe.oracle.unquantized import select_unquantized_moe_backend
from vllm.compilation.backends import set_model_tag

def layer(**changes):
    facts = dict(num_experts=8, experts_per_token=2, hidden_dim=128, intermediate_size=64,
        intermediate_size_per_partition=64, activation="silu", routing_method="Renormalize",
        in_dtype="bf16", router_logits_dtype=None, moe_backend="auto", parallel=dict(tp_size=1,
        pcp_size=1, dp_size=1, ep_size=1, sp_size=1, use_ep=False, enable_eplb=False,
        all2all_backend="allgather_reducescatter"))
    return objects.layer({**facts, **changes})

def asked(**changes):
    try:
        backend, kernel = select_unquantized_moe_backend(layer(**changes))
    except (NotImplementedError, ValueError) as error:
        kind = NotImplementedError if isinstance(error, NotImplementedError) else ValueError
        return [kind.__name__, str(error)]
    return [backend.name, kernel.__name__]
"""
SELECTING = START + SM90 + LOAD + CALL
"""One layer, in an engine with the plugin."""


def overlay(folder: Path, text: str) -> str:
    (folder / "cuda.yaml").write_text(f"platform: cuda\n{text}")
    return str(folder)


FIRST = "oracles: {unquantized: {adjust: [{first: [BATCHED_TRITON], because: mine}]}}\n"
WITHDRAWN = "oracles: {unquantized: {adjust: [{withdraw: [TRITON], because: broken here}]}}\n"
BOUND = "kernels: {TritonExperts: {class: 'tests.vllm.out_of_tree:Experts'}}\n"


def test_one_line_for_each_kind_of_layer() -> None:
    code = (
        SELECTING
        + """
found = [asked(), asked(), asked(hidden_dim=256)]
print(json.dumps([found, Lines.lines]))
"""
    )
    found, lines = answer(code, MOE_RULES_VLLM="on")
    assert found == [["TRITON", "TritonExperts"]] * 3
    assert len(lines) == 2
    assert (
        "unquantized layer (8 experts of 128x64 silu): TRITON / TritonExperts, because " in lines[0]
    )
    assert "(cuda/unquantized.yaml:" in lines[0]


def test_an_overlay_disables_and_binds(tmp_path: Path) -> None:
    code = SELECTING + "print(json.dumps([asked(), Lines.lines]))"
    (error, text), lines = answer(
        code, MOE_RULES_VLLM="on", MOE_RULES_PATH=overlay(tmp_path, WITHDRAWN)
    )
    assert error == "NotImplementedError"
    assert "broken here" in text
    assert f"{tmp_path.name}/cuda.yaml:2" in text
    assert "vLLM's own selection would select TRITON / TritonExperts" in text
    found, lines = answer(code, MOE_RULES_VLLM="on", MOE_RULES_PATH=overlay(tmp_path, BOUND))
    assert found == ["TRITON", "Experts"]
    assert "TRITON / tests.vllm.out_of_tree:Experts, because " in lines[-1]


OWN_BACKEND = (
    "oracles: {unquantized: {backends: {MINE: {kernels: [TritonExperts]}},"
    " adjust: [{first: [MINE], because: mine}]}}\n"
)


def test_an_overlay_that_vllm_cannot_run_says_why(tmp_path: Path) -> None:
    overlays = {
        "new backend": OWN_BACKEND,
        "no package": BOUND.replace("tests.vllm.out_of_tree", "no_such_package.experts"),
        "no experts": BOUND.replace("tests.vllm.out_of_tree:Experts", "json:JSONEncoder"),
    }
    for name, text in overlays.items():
        (tmp_path / name).mkdir()
        overlay(tmp_path / name, text)
    code = (
        SELECTING
        + f"""
import os
found = {{}}
for name in {list(overlays)}:
    os.environ["MOE_RULES_PATH"] = {str(tmp_path)!r} + "/" + name
    try:
        select_unquantized_moe_backend(layer())
    except Exception as error:
        bases = (ImportError, TypeError, ValueError)
        found[name] = [[b.__name__ for b in bases if isinstance(error, b)], str(error)]
print(json.dumps(found))
"""
    )
    found = answer(code, MOE_RULES_VLLM="on")
    (kind,), text = found["new backend"]
    assert kind == "ValueError"
    assert "'MINE'" in text
    assert "has no such member; it has FLASHINFER_TRTLLM, " in text
    assert "bind it to a kernel of one of these" in text
    (kind,), text = found["no package"]
    assert kind == "ImportError"
    assert "no_such_package is not installed" in text
    (kind,), text = found["no experts"]
    assert kind == "TypeError"
    assert "subclasses of its FusedMoEExperts, json.encoder.JSONEncoder is none" in text


def test_other_arguments_are_as_wrong_as_for_vllm() -> None:
    code = (
        SELECTING
        + """
from moe_rules import FusedMoEConfig
from vllm.model_executor.layers.fused_moe.oracle.fp8 import select_fp8_moe_backend
ours = FusedMoEConfig(num_experts=8, experts_per_token=2, hidden_dim=128, intermediate_size=64)
keys = dict(weight_key=None, activation_key=None)
calls = [
    ((layer(),), dict(keys, unknown=1)),
    ((), dict(keys, moe_config=layer())),
    ((layer(),), dict(keys, config=layer())),
    ((layer(), None, None, True, None), {}),
    ((ours,), keys),
]
found = []
for args, kwargs in calls:
    try:
        found.append(str(select_fp8_moe_backend(*args, **kwargs)))
    except TypeError as error:
        found.append(f"TypeError: {error}")
print(json.dumps(found))
"""
    )
    found = answer(code, MOE_RULES_VLLM="on")
    assert [text for text in found if not text.startswith("TypeError: ")] == []
    assert "'unknown'" in found[0]
    assert "take a layer as vLLM's FusedMoEConfig, got moe_rules." in found[-1]


def test_a_refusal_has_the_reasons_of_both() -> None:
    code = SELECTING + "print(json.dumps(asked(moe_backend='aiter')))"
    error, text = answer(code, MOE_RULES_VLLM="on")
    assert error == "ValueError"
    assert "moe_backend='aiter' is no backend of oracle 'unquantized' on cuda" in text
    assert "vLLM's own selection says: " in text


def test_shadow_says_a_difference_once_and_records(tmp_path: Path) -> None:
    record = tmp_path / "field.jsonl.gz"
    code = (
        SELECTING
        + """
found = [asked(), asked(), asked(hidden_dim=256), asked(moe_backend="aiter")]
print(json.dumps([found, Lines.lines]))
"""
    )
    found, lines = answer(
        code,
        MOE_RULES_VLLM="shadow",
        MOE_RULES_PATH=overlay(tmp_path, WITHDRAWN),
        MOE_RULES_VLLM_RECORD=str(record),
    )
    assert found[:3] == [["TRITON", "TritonExperts"]] * 3  # vLLM decides
    assert found[3][0] == "ValueError"
    (line,) = lines
    assert "vLLM comes to TRITON / TritonExperts" in line
    assert "the tables to NotSupportedError, because" in line
    assert "broken here" in line
    with gzip.open(record, "rt") as cases:
        assert len(list(cases)) == 4
    result = run_file(record, frozenset(), load_comparer())  # the packaged rules agree with vLLM
    assert result.complete
    assert result.oracles["unquantized"].decision.total == 4


def test_shadow_compares_where_it_cannot_record(tmp_path: Path) -> None:
    code = SELECTING + "print(json.dumps([[asked(), asked()], Lines.lines]))"
    record = tmp_path / "no such folder" / "field.jsonl.gz"
    found, lines = answer(code, MOE_RULES_VLLM="shadow", MOE_RULES_VLLM_RECORD=str(record))
    assert found == [["TRITON", "TritonExperts"]] * 2
    assert len(lines) == 2
    assert "cannot record: " in lines[0]
    assert str(record) in lines[0]
    assert lines[1].endswith(", and vLLM selects the same")


def test_on_says_once_that_nothing_is_recorded(tmp_path: Path) -> None:
    record = tmp_path / "field.jsonl.gz"
    again = "from moe_rules.integrations.vllm import register\nregister()\n"
    done = python(
        "-c", START + SM90 + LOAD + again, MOE_RULES_VLLM="on", MOE_RULES_VLLM_RECORD=str(record)
    )
    assert (done.stdout + done.stderr).count("MOE_RULES_VLLM_RECORD is for shadow") == 1
    assert not record.exists()


def test_a_draft_model_has_requests_of_its_own() -> None:
    code = (
        SELECTING
        + """
found = [asked()]
with set_model_tag("eagle_head"):
    found.append(asked())
print(json.dumps([found, Lines.lines]))
"""
    )
    request = "unquantized=triton,draft=flashinfer_cutlass"
    found, lines = answer(code, MOE_RULES_VLLM="on", MOE_RULES_BACKEND=request)
    assert found[0] == ["TRITON", "TritonExperts"]
    assert found[1][0] == "ValueError"
    assert "flashinfer_cutlass" in found[1][1]
    assert "requested by unquantized=triton (MOE_RULES_BACKEND)" in lines[0]


def test_a_wrong_word_stops_the_engine() -> None:
    with pytest.raises(AssertionError, match="MOE_RULES_VLLM='yes' is none of off, on, shadow"):
        python("-c", START + SM90 + LOAD, MOE_RULES_VLLM="yes")


@pytest.mark.parametrize("platform", PLATFORMS[:1])
def test_costs_less_than_half_of_vllms_own(platform: str) -> None:
    path = SAMPLES / f"{platform}.jsonl.gz"
    table = python("-m", "tests.vllm.plugin_cost", str(path)).stdout.splitlines()[2:]
    ratios = {row.split(" | ")[0]: float(row.strip(" |").split(" | ")[-1]) for row in table}
    assert len(ratios) > 4
    assert max(ratios.values()) <= 0.4, ratios
