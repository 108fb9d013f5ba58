import contextlib
import copy
import pickle

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from moe_rules.machines.machine import DEVICE_OF, Machine, MachineError, facts_of, load_machine
from moe_rules.vocabulary.facts import FACTS

WORDS = st.text(min_size=1, max_size=20).filter(
    lambda t: t.lower() not in ("none", "null", "unset")
)
# Line breaks other than \n, and controls, are not kept by YAML's readers.
PLAIN = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1).filter(
    lambda t: t.lower() not in ("none", "null", "unset")
)


def values_of(name):
    fact = FACTS[name]
    match fact.type:
        case "bool":
            return st.booleans()
        case "enum":
            return st.sampled_from(fact.values)
        case "version":
            return st.tuples(st.integers(0, 99), st.integers(0, 9))
        case _:
            return PLAIN


@st.composite
def machines(draw):
    device = draw(values_of("device"))
    possible = [f for f in facts_of("platform") if DEVICE_OF.get(f, device) == device]
    chosen = draw(st.sets(st.sampled_from(possible)))
    platform = {f: draw(values_of(f)) for f in possible if f in chosen and f != "device"}
    software = draw(st.dictionaries(st.sampled_from(facts_of("software")), st.booleans()))
    return Machine(draw(PLAIN), {"device": device, **platform}, software, draw(PLAIN))


@given(machines())
def test_round_trips(machine):
    assert Machine.from_dict(machine.to_dict()) == machine
    assert Machine.from_dict(yaml.safe_load(machine.to_yaml())) == machine
    assert pickle.loads(pickle.dumps(machine)) == machine
    assert hash(copy.deepcopy(machine)) == hash(machine)


@given(machines())
def test_facts_hold_what_is_known_and_nothing_else(machine):
    facts = machine.facts()
    assert {name: facts[name] for name in machine.platform} == machine.platform
    assert {name: facts[name] for name in machine.software} == machine.software
    for name in set(facts) - set(machine.platform) - set(machine.software):
        assert DEVICE_OF[name] != machine.device
        assert facts[name] in (None, False)
    assert set(machine.unknown()) == set(facts_of("software")) - set(machine.software)


@given(machines())
def test_a_record_survives_yaml_files(tmp_path_factory, machine):
    path = tmp_path_factory.mktemp("machine") / "machine.yaml"
    path.write_text(machine.to_yaml(), encoding="utf-8")
    assert load_machine(path) == machine


def test_unknown_is_not_false():
    machine = Machine("m", {"device": "cuda"}, {"hpc": True}, "test")
    assert "compute_capability" not in machine.facts()
    assert "flashinfer" not in machine.facts()
    assert machine.facts()["gfx"] is None
    assert machine.facts()["amx_tile"] is False
    assert "# Unknown software facts: flashinfer," in machine.to_yaml()


def test_software_overrides():
    machine = load_machine("h100")
    assert machine.software["flashinfer"] is True
    assert machine.with_software(flashinfer=False).software["flashinfer"] is False
    assert "flashinfer" in machine.with_software(flashinfer=None).unknown()
    assert machine.with_software(flashinfer=None).with_software(flashinfer=True) == machine
    assert machine.software["flashinfer"] is True


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flashinfr": True}, "unknown software fact 'flashinfr'; did you mean 'flashinfer'?"),
        ({"flashinfr": None}, "unknown software fact 'flashinfr'; did you mean 'flashinfer'?"),
        ({"hpc": "yes"}, "hpc cannot be 'yes'; it is true, false"),
        ({"hpc": 1}, "hpc cannot be 1; it is true, false"),
    ],
)
def test_wrong_software(change, message):
    with pytest.raises(MachineError) as caught:
        load_machine("h100").with_software(**change)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("platform", "message"),
    [
        ({}, "no device is given"),
        ({"device": "cuba"}, "device cannot be 'cuba'; did you mean 'cuda'?"),
        ({"device": "cuda", "compute_capability": 9.0}, 'write it in quotes: "9.0"'),
        ({"device": "cuda", "compute_capability": "nine"}, "'nine' is not a version"),
        ({"device": "cuda", "gfx": "gfx942"}, "gfx is a fact of rocm devices, this one is cuda"),
        ({"device": "rocm", "zen": True}, "zen is a fact of cpu devices"),
        ({"device": "cpu", "amx_tiles": True}, "did you mean 'amx_tile'?"),
        ({"device": "cpu", "flashinfer": True}, "unknown platform fact 'flashinfer'"),
        ({"device": "cpu", "zen": None}, "zen cannot be none"),
        ({"device": "cuda", "compute_capability": "10.10"}, "with one digit at the end"),
        ({"device": "cuda", "compute_capability": (-1, 0)}, "'-1.0' is not a version"),
        (None, "platform must be a mapping of facts, not None"),
    ],
)
def test_wrong_platform(platform, message):
    with pytest.raises(MachineError) as caught:
        Machine("m", platform, {}, "test")
    assert message in str(caught.value)


def test_all_problems_at_once():
    with pytest.raises(MachineError) as caught:
        Machine.from_dict({"nam": "x", "platform": {"device": "x"}, "software": {"a": 1, "hpc": 0}})
    assert len(caught.value.problems) == 5


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "platform", "device", "x"]), inner, max_size=4),
    )
)
def test_any_data_is_a_machine_or_a_machine_error(data):
    with contextlib.suppress(MachineError):
        assert Machine.from_dict(data).device in FACTS["device"].values
