"""Names resolve to classes, or to an error that says what is missing."""

import importlib.util
import subprocess
import sys

import pytest
from moe_kernels import registry
from moe_kernels.modular_kernel import FusedMoEExperts
from moe_kernels.registry import (
    Available,
    KernelUnavailableError,
    Unavailable,
    available,
    names,
    register,
    resolve,
    unregister,
)


@pytest.mark.parametrize("name", names())
def test_every_name_resolves_or_says_what_is_missing(name):
    found = available(name)
    if isinstance(found, Available):
        assert resolve(name).__name__ == name
    else:
        assert found.remedy
        with pytest.raises(KernelUnavailableError, match=f"kernel {name}: .*not installed; "):
            resolve(name)


def test_ours_are_experts():
    ours = [
        name for name in names() if isinstance(available(name, provider="moe_kernels"), Available)
    ]
    assert {"TritonExperts", "CPUUnquantizedExperts", "CPUExpertsFp8"} <= set(ours)
    for name in ours:
        assert issubclass(resolve(name, provider="moe_kernels"), FusedMoEExperts)


def test_unknown_name():
    assert isinstance(available("NoSuchExperts"), Unavailable)
    with pytest.raises(KernelUnavailableError, match="nobody provides a kernel of this name"):
        resolve("NoSuchExperts")


def test_a_place_is_a_name():
    place = "moe_kernels.experts.cpu_experts:CPUExpertsFp8"
    assert resolve(place) is resolve("CPUExpertsFp8", provider="moe_kernels")
    with pytest.raises(KernelUnavailableError, match=r"not_there is not installed"):
        resolve("not_there.experts:Mine")
    with pytest.raises(KernelUnavailableError, match="does not import"):
        resolve("moe_kernels.experts.cpu_experts:Mine")


@pytest.fixture
def registered():
    yield
    for name in ("TritonExperts", "MineExperts"):
        unregister(name)


@pytest.mark.usefixtures("registered")
def test_registered_comes_first():
    class Mine:
        pass

    register("TritonExperts", Mine)
    assert resolve("TritonExperts") is Mine
    assert resolve("TritonExperts", provider="moe_kernels") is not Mine
    unregister("TritonExperts")
    assert resolve("TritonExperts") is not Mine


@pytest.mark.usefixtures("registered")
def test_registered_by_path():
    register("MineExperts", "collections:OrderedDict")
    assert resolve("MineExperts").__name__ == "OrderedDict"
    assert "MineExperts" in names()
    register("MineExperts", "no_such_package.module:Class")
    with pytest.raises(KernelUnavailableError, match="no_such_package is not installed"):
        resolve("MineExperts")
    register("MineExperts", "collections:NoSuchClass")
    with pytest.raises(KernelUnavailableError, match="which does not import"):
        resolve("MineExperts")
    register("MineExperts", "os:getcwd")
    with pytest.raises(KernelUnavailableError, match="is not a class"):
        resolve("MineExperts")
    with pytest.raises(ValueError, match="expected 'module:Class', got 'nothing'"):
        register("MineExperts", "nothing")


@pytest.mark.parametrize("name", [None, 3, ["TritonExperts"]])
def test_names_are_text(name):
    for ask in (resolve, available, lambda one: register(one, dict)):
        with pytest.raises(TypeError, match="kernels are named by text"):
            ask(name)


@pytest.mark.parametrize("target", [None, 3, print])
def test_what_is_no_class_is_not_registered(target):
    with pytest.raises(TypeError, match="expected a class or 'module:Class', got"):
        register("Mine", target)
    assert "Mine" not in names()


def test_a_provider_exists():
    with pytest.raises(ValueError, match=r"nobody called 'vlm' provides kernels; did you mean"):
        resolve("TritonExperts", provider="vlm")


def test_entry_points_come_before_ours(monkeypatch):
    points = {"TritonExperts": "collections:Counter"}
    monkeypatch.setattr(registry, "_entry_points", lambda: points)
    assert resolve("TritonExperts").__name__ == "Counter"
    found = available("TritonExperts")
    assert isinstance(found, Available)
    assert found.provider == "entry point"


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_vllm_classes_name_vllm():
    for name in ("MarlinExperts", "B12xExperts"):
        with pytest.raises(KernelUnavailableError, match="vllm is not installed; pip install vllm"):
            resolve(name)


def test_classes_of_one_name_are_told_apart():
    general = available("CPUExpertsInt4", provider="vllm")
    other = available("CPUExpertsInt4", provider="vllm", oracle="w4a8_int8")
    assert "cpu_moe" in str(general)
    assert "cpu_int4_moe" in str(other)


def test_looking_imports_nothing_heavy():
    program = (
        "import sys\n"
        "from moe_kernels import registry\n"
        "[registry.available(name) for name in registry.names()]\n"
        "print(sorted({'torch', 'triton', 'vllm', 'numpy'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr
