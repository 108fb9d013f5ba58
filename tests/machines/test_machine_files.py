"""Recorded machine files that cannot be used: one clear error each, with its place."""

import pytest

from moe_rules.machines.machine import MachineError, load_machine

GOOD = 'name: m\nplatform:\n  device: cuda\n  compute_capability: "9.0"\nsoftware:\n  hpc: true\n'
BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 20)
)


def load(tmp_path, content):
    path = tmp_path / "machine.yaml"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content, encoding="utf-8")
    return load_machine(path)


def test_good(tmp_path):
    machine = load(tmp_path, GOOD)
    assert machine.platform["compute_capability"] == (9, 0)
    assert machine.source == f"recorded in {tmp_path / 'machine.yaml'}"
    assert machine.unknown()


def test_json_is_read_too(tmp_path):
    path = tmp_path / "machine.json"
    path.write_text('{"name": "m", "platform": {"device": "tpu"}, "software": {}}')
    assert load_machine(path).device == "tpu"


def test_preset_replaces_what_was_recorded(tmp_path):
    (tmp_path / "m.yaml").write_text(GOOD)
    assert load_machine(tmp_path / "m.yaml", "full").software["flashinfer"] is True
    assert load_machine(tmp_path / "m.yaml", "bare").software["hpc"] is False


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        ("", 0, "is empty"),
        ("# only a comment\n", 0, "is empty"),
        (b"name: \xff\n", 1, "not UTF-8"),
        (b"\x00\x01", 0, "not YAML"),
        ("name: [", 2, "not YAML"),
        ("name: m\n\tplatform: x", 2, "not YAML"),
        ("--- 1\n--- 2\n", 2, "not YAML"),
        ("just text", 1, "a machine is a mapping"),
        ("- name: m\n", 1, "a machine is a mapping"),
        ("platform: {device: tpu}\n", 1, "name is missing"),
        (GOOD.replace("name", "nmae"), 1, "unknown key 'nmae'; did you mean 'name'?"),
        (GOOD + "name: again\n", 7, "duplicate key 'name'"),
        (GOOD + "  hpc: false\n", 7, "duplicate key 'hpc'"),
        (GOOD.replace('"9.0"', "9.0"), 4, 'write it in quotes: "9.0"'),
        (GOOD.replace("cuda", "cdua"), 3, "device cannot be 'cdua'; did you mean 'cuda'?"),
        (GOOD.replace("cuda", "[cuda]"), 3, "device cannot be ['cuda']"),
        (GOOD.replace("hpc", "hcp"), 6, "unknown software fact 'hcp'; did you mean 'hpc'?"),
        (GOOD.replace("true", "1"), 6, "hpc cannot be 1"),
        (GOOD.replace("device", "devise"), 3, "did you mean 'device'?"),
        (GOOD.replace("compute_capability", "gfx"), 4, "gfx is a fact of rocm devices"),
        ("name: m\nplatform: cuda\n", 2, "platform must be a mapping"),
        ("name: 3\nplatform: {device: tpu}\n", 1, "name must be text"),
        ("name: m\nplatform: {device: !!python/object:os.system x}\n", 2, "is not read"),
        (BOMB, 0, "expands to more than"),
    ],
)  # fmt: skip
def test_malformed(tmp_path, content, line, message):
    with pytest.raises(MachineError) as caught:
        load(tmp_path, content)
    text = str(caught.value)
    assert message in text
    place = str(tmp_path / "machine.yaml")
    assert text.startswith(f"{place}:{line}:" if line else place)


def test_several_problems_come_together(tmp_path):
    content = GOOD.replace("hpc", "hcp").replace('"9.0"', "x").replace("name", "nam")
    with pytest.raises(MachineError) as caught:
        load(tmp_path, content)
    assert len(caught.value.problems) == 4


def test_directory(tmp_path):
    with pytest.raises(MachineError, match="is a directory"):
        load_machine(tmp_path)


def test_no_such_file(tmp_path):
    with pytest.raises(MachineError, match="no file"):
        load_machine(tmp_path / "absent.yaml")


def test_no_permission(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(MachineError, match="permission"):
        load_machine(tmp_path / "machine.yaml")
