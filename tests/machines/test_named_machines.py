import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from moe_rules.files.yaml_source import read_yaml
from moe_rules.machines.machine import (
    DEVICE_OF,
    MachineError,
    facts_of,
    load_machine,
    machines_file,
    named_machines,
    normalized_name,
    software_preset,
)
from moe_rules.machines.schema import MachinesFile
from moe_rules.vocabulary.facts import FACTS
from moe_rules.vocabulary.table_names import PLATFORMS

# What the products are, written down once more: vendor, and capability or target.
EXPECTED = {
    "v100": (7, 0), "t4": (7, 5), "a100": (8, 0), "a10": (8, 6), "l40s": (8, 9), "h100": (9, 0),
    "h200": (9, 0), "b200": (10, 0), "b300": (10, 3), "thor": (11, 0), "rtx5090": (12, 0),
    "rtxpro6000": (12, 0), "gb10": (12, 1), "mi210": "gfx90a", "mi300x": "gfx942",
    "mi325x": "gfx942", "mi350x": "gfx950", "rx7900": "gfx1100", "rx9070": "gfx1201",
}  # fmt: skip
CPUS = {
    "x86": ("x86", "linux", False, False, False),
    "x86-amx": ("x86", "linux", False, True, False),
    "x86-amx-fp8": ("x86", "linux", False, True, True),
    "zen": ("x86", "linux", True, False, False),
    "arm": ("arm", "linux", False, False, False),
    "arm-darwin": ("arm", "darwin", False, False, False),
    "power": ("powerpc", "linux", False, False, False),
    "s390x": ("s390x", "linux", False, False, False),
    "riscv": ("riscv", "linux", False, False, False),
}


@pytest.fixture(scope="module")
def table():
    return read_yaml(machines_file()).data


def test_the_file_is_valid(table):
    MachinesFile.model_validate(table)


def test_every_platform_has_a_machine(table):
    assert {one["platform"]["device"] for one in table["machines"].values()} == set(PLATFORMS)


def test_the_file_names_its_schema():
    first = machines_file().read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=../schemas/machines.schema.json"


def test_gpus():
    for name, expected in EXPECTED.items():
        facts = load_machine(name).facts()
        assert (facts["compute_capability"] or facts["gfx"]) == expected, name
        assert facts["device"] == ("rocm" if isinstance(expected, str) else "cuda")


def test_cpus():
    for name, expected in CPUS.items():
        facts = load_machine(name).facts()
        assert facts["device"] == "cpu"
        assert tuple(facts[f] for f in ("cpu_arch", "os", "zen", "amx_tile", "amx_fp8")) == expected


def test_other_devices():
    for name in ("xpu", "tpu", "out_of_tree", "unspecified"):
        assert load_machine(name).device == name


def test_every_device_has_a_machine_that_knows_its_facts():
    machines = named_machines().values()
    assert {machine.platform["device"] for machine in machines} == set(FACTS["device"].values)
    for machine in machines:
        own = {fact for fact, device in DEVICE_OF.items() if device == machine.platform["device"]}
        assert own <= set(machine.platform), machine.name


def test_every_software_fact_belongs_to_the_full_preset_of_one_device(table):
    full = [fact for facts in table["software"]["full"].values() for fact in facts]
    assert set(full) == set(facts_of("software"))


def test_bare_is_part_of_full(table):
    for device, facts in table["software"]["bare"].items():
        assert set(facts) < set(table["software"]["full"][device])


@pytest.mark.parametrize("preset", ["full", "bare"])
@pytest.mark.parametrize("device", FACTS["device"].values)
def test_presets_leave_nothing_unknown(preset, device):
    assert tuple(software_preset(preset, device)) == facts_of("software")


def test_presets_of_named_machines():
    assert load_machine("mi300x").software["aiter"] is True
    assert load_machine("mi300x", "bare").software["aiter"] is False
    assert load_machine("h100", "bare").software["cutlass_group_gemm_op"] is True
    assert not any(load_machine("xpu").software.values())
    with pytest.raises(MachineError, match="unknown software preset 'bear'; did you mean 'bare'"):
        load_machine("h100", "bear")


@given(st.data())
def test_spelling_does_not_matter(data):
    machine = data.draw(st.sampled_from(list(named_machines().values())))
    name = data.draw(st.sampled_from((machine.name, *machine.aliases)))
    cased = "".join(data.draw(st.sampled_from((c.upper(), c.lower()))) for c in name)
    spelled = "".join(c + data.draw(st.sampled_from(("", "-", "_", " "))) for c in cased)
    assert load_machine(spelled) == machine.machine()


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("h10", "h100"),
        ("mi300", None),
        ("mi333x", "mi300x"),
        ("rtx 5080", "rtx5090"),
        ("rtx6000pro", "rtxpro6000"),
        ("x86amxfp9", "x86-amx-fp8"),
    ],
)
def test_unknown_name_lists_the_nearest(name, nearest):
    if nearest is None:
        assert load_machine(name).name == "mi300x"
        return
    with pytest.raises(MachineError) as caught:
        load_machine(name)
    assert f"no machine is named {name!r}" in str(caught.value)
    assert nearest in str(caught.value).split("nearest: ")[1].split(", ")


def test_a_kind_of_device_lists_its_machines():
    with pytest.raises(MachineError) as caught:
        load_machine("ROCm")
    message = str(caught.value)
    assert "no machine is named 'ROCm', which is a kind of device" in message
    names = message.split("machines of it: ")[1].split(", ")
    assert names == [n for n, one in named_machines().items() if one.platform["device"] == "rocm"]


def test_unlike_any_name_lists_all():
    with pytest.raises(MachineError) as caught:
        load_machine("?!")
    assert all(name in str(caught.value) for name in named_machines())


def test_a_name_wins_over_a_file_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "h100").write_text("name: x\nplatform: {device: tpu}\n")
    (tmp_path / "mine").write_text("name: x\nplatform: {device: tpu}\n")
    assert load_machine("h100").device == "cuda"
    assert load_machine("mine").device == "tpu"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("machines", "h100", "platform", "device"), "cuba", "did you mean 'cuda'"),
        (("machines", "h100", "platform", "gfx"), "gfx942", "fact of rocm"),
        (("machines", "h100", "memory"), 80, "Extra inputs"),
        (("machines", "h100", "aliases"), ["a100"], "'a100' names both"),
        (("machines", "H-200"), {"product": "x", "platform": {"device": "tpu"}, "source": "x"},
         "names both"),
        (("software", "full", "cuda"), ["flashinfr"], "did you mean 'flashinfer'"),
        (("software", "full", "gpu"), [], "should be 'cuda'"),
    ],
)  # fmt: skip
def test_schema_refuses(table, path, value, message):
    changed = copy.deepcopy(table)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(ValidationError, match=message):
        MachinesFile.model_validate(changed)


def test_json_schema_agrees_with_the_models(table):
    jsonschema = pytest.importorskip("jsonschema")
    schema = MachinesFile.model_json_schema()
    jsonschema.validate(table, schema)
    for path, value in (
        (("platform", "device"), "cuba"),
        (("platform", "compute_capability"), 9.0),
        (("platform", "amx"), True),
        (("colour",), "green"),
    ):
        changed = copy.deepcopy(table)
        inner = changed["machines"]["h100"]
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(changed, schema)


def test_normalized_names_are_fixed_points():
    for machine in named_machines().values():
        for name in (machine.name, *machine.aliases):
            assert normalized_name(normalized_name(name)) == normalized_name(name)
