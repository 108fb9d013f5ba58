"""Every kind of device that the tables tell apart is recorded."""

from __future__ import annotations

from pathlib import Path

from moe_rules.vocabulary.facts import FACTS
from tools.record.machines import machines

SAMPLES = Path(__file__).parents[2] / "samples" / "dev"


def test_the_recorded_samples_are_of_known_machines() -> None:
    recorded = {path.name.partition(".")[0] for path in SAMPLES.glob("*.jsonl.gz")}
    assert recorded <= machines().keys()
    assert len(recorded) > 5


def test_every_value_of_the_vocabulary_is_on_some_machine() -> None:
    found = [machine.platform for machine in machines().values()]
    for name in ("device", "gfx", "cpu_arch", "os"):
        assert set(FACTS[name].values) == {p[name] for p in found if p.get(name) is not None}
    for name in ("zen", "amx_tile", "amx_fp8"):
        assert {p[name] for p in found if name in p} == {True, False}


def test_no_two_machines_are_alike() -> None:
    found = [machine.facts() for machine in machines().values()]
    assert all(one not in found[:number] for number, one in enumerate(found))
