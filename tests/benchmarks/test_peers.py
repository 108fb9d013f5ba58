"""Adapters of other kernels: what their sources are cut to, and what stands in for the rest.

Where ``vendor-bench/`` has the sources, the peers compute small layers in Triton's interpreter.
"""

from __future__ import annotations

import ast
import inspect
import io
import lzma
import struct
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import zip_longest

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from moe_kernels.benchmark.layers import draw_layer, draw_workload  # noqa: E402
from moe_kernels.benchmark.peers import PeerUnavailableError  # noqa: E402
from moe_kernels.benchmark.shapes import SCHEMES, Scheme, Shape  # noqa: E402
from moe_kernels.reference import relative_error  # noqa: E402

from benchmarks.peers import PEERS, operators, sources, vllm, vllm_triton  # noqa: E402
from benchmarks.peers.partial import PartialPackage  # noqa: E402
from benchmarks.peers.unpack import keep_architecture, unpack  # noqa: E402
from moe_rules.language.ruleset import load_platform  # noqa: E402

PTX, CUBIN = 1, 2


def fat_binary(*architectures: int, kinds: tuple[int, ...] = ()) -> bytes:
    """A fat binary with an entry of 16 bytes 0xFF per architecture; ``kinds``: CUBIN if absent."""
    header = struct.Struct("<HHIQ12xII28x")
    entries = b"".join(
        header.pack(kind, 1, header.size, 16, architecture, 0) + b"\xff" * 16
        for architecture, kind in zip_longest(architectures, kinds, fillvalue=CUBIN)
    )
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(entries)) + entries


def test_other_gpus_code_becomes_zeros() -> None:
    first, second = fat_binary(80, 90), fat_binary(120)
    library = b"head" + first + b"between" + second + b"tail"
    kept = keep_architecture(library)
    assert len(kept) == len(library)
    assert kept.count(b"\xff" * 16) == 1
    assert keep_architecture(first, 80) != keep_architecture(first, 90)
    assert kept.startswith(b"head")
    assert kept.endswith(b"tail")
    assert keep_architecture(kept) == kept


def test_ptx_of_older_gpus_stays_where_there_is_nothing_else() -> None:
    kinds = (PTX, CUBIN, PTX)
    alone = fat_binary(80, 80, 100, kinds=kinds)
    kept = keep_architecture(alone, 90)
    first, entry = 16 + 64, 64 + 16  # an entry is a header of 64 bytes and the code
    assert [kept[first + i * entry] for i in range(3)] == [0xFF, 0, 0]
    native = fat_binary(80, 90, 100, kinds=kinds)
    kept = keep_architecture(native, 90)
    assert [kept[first + i * entry] for i in range(3)] == [0, 0xFF, 0]


def test_programs_of_a_wheel_can_be_run(tmp_path) -> None:
    wheel = tmp_path / "humming_kernels-1-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        program = zipfile.ZipInfo("humming/_native/compile")
        program.external_attr = 0o755 << 16
        archive.writestr(program, b"\x7fELF")
        archive.writestr("humming/_native/launcher.so", b"\x7fELF" + fat_binary(80))
        archive.writestr("humming_kernels-1.dist-info/METADATA", b"")
    unpack(wheel, tmp_path)
    folder = tmp_path / "humming_kernels" / "humming" / "_native"
    assert {path.name: path.stat().st_mode & 0o111 for path in folder.iterdir()} == {
        "compile": 0o111,
        "launcher.so": 0,  # as it was: only vLLM's own extensions are cut and compressed
    }
    assert (folder / "launcher.so").read_bytes().endswith(b"\xff" * 16)
    assert [path.name for path in (tmp_path / "humming_kernels").iterdir()] == ["humming"]


def test_wheels_are_cut_to_what_is_wanted(tmp_path) -> None:
    extension = b"\x7fELF" + fat_binary(90)
    content = {
        "vllm/model_executor/layers/fused_moe/fused_moe.py": b"x = 1\n",
        "vllm/model_executor/layers/fused_moe/configs/E=1,device_name=NVIDIA_H200.json": b"{}",
        "vllm/model_executor/layers/fused_moe/configs/E=1,device_name=AMD.json": b"{}",
        "vllm/model_executor/models/llama.py": b"x = 2\n",
        "vllm/_moe_C_stable_libtorch.abi3.so": extension,
        "vllm-1.dist-info/METADATA": b"",
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    wheel = tmp_path / "vllm-1-any.whl"
    wheel.write_bytes(buffer.getvalue())
    unpack(wheel, tmp_path)
    found = sorted(p.name for p in (tmp_path / "vllm").rglob("*") if p.is_file())
    assert found == [
        "E=1,device_name=NVIDIA_H200.json", "_moe_C_stable_libtorch.abi3.so.xz", "fused_moe.py",
    ]  # fmt: skip
    packed = tmp_path / "vllm" / "_moe_C_stable_libtorch.abi3.so.xz"
    assert lzma.decompress(packed.read_bytes()) == extension
    with pytest.raises(ValueError, match="expected a wheel of vllm, sglang, humming_kernels"):
        unpack(tmp_path / "torch-2.whl", tmp_path)


def test_partial_packages_import_what_is_there_and_stand_in_for_the_rest(
    tmp_path, monkeypatch
) -> None:
    folder = tmp_path / "engine_of_test"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "real.py").write_text(
        "from engine_of_test import absent, given\n"
        "from engine_of_test.elsewhere import Base\n"
        "class Derived(Base): pass\n"
        "value = given.answer\n"
    )
    package = PartialPackage(folder, ["deep.real"], {"engine_of_test.given": {"answer": 42}})
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    package.install()
    from engine_of_test.deep import real

    assert real.value == 42
    assert real.Derived.__mro__[1].__module__ == "engine_of_test.elsewhere"
    with pytest.raises(TypeError):
        real.absent("called")
    with pytest.raises(RuntimeError, match="was imported before"):
        package.install()
    for name in [name for name in sys.modules if name.startswith("engine_of_test")]:
        monkeypatch.delitem(sys.modules, name)


def test_without_sources_it_says_how_to_get_them(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(sources, "SOURCES", tmp_path)
    with pytest.raises(PeerUnavailableError, match=r"benchmarks\.peers\.unpack"):
        sources.source_of("vllm")


@pytest.mark.parametrize("device", [(), (0,)], ids=["current", "named"])
def test_the_platform_answers_as_hopper_for_any_device(device) -> None:
    platform = sources.hopper()
    assert platform.get_device_capability(*device).to_int() == 90
    assert platform.has_device_capability(80, *device)
    assert not platform.has_device_capability((10, 0), *device)
    assert platform.is_device_capability(90, *device)
    assert not platform.is_device_capability_family(100, *device)


def test_alignments_differ_in_what_becomes_of_experts_elsewhere() -> None:
    ids = torch.tensor([[0, 3], [2, 1], [3, 2]], dtype=torch.int32)
    expert_map = torch.tensor([0, 1, -1, -1], dtype=torch.int32)
    for align, pairs in (
        (operators.align(ids, 16, 4, expert_map, ignore_invalid_experts=True), {0: 0, 3: 1}),
        (
            operators.align(ids, 16, 4, expert_map),
            {0: 0, 3: 1, 1: -1, 2: -1, 4: -1, 5: -1},
        ),
        (
            operators.align_local(expert_map[ids.long()], 16, 2),
            {0: 0, 3: 1, 1: -1, 2: -1, 4: -1, 5: -1},
        ),
    ):
        rows, experts, count = align
        found = {
            int(pair): int(experts[i // 16])
            for i, pair in enumerate(rows[: int(count)].tolist())
            if pair < ids.numel()
        }
        assert found == pairs


def test_sums_leave_out_experts_elsewhere() -> None:
    x = torch.ones(2, 2, 4)
    x[0, 1] = torch.nan
    ids = torch.tensor([[0, 3], [1, 0]], dtype=torch.int32)
    expert_map = torch.tensor([0, 1, -1, -1], dtype=torch.int32)
    out = torch.empty(2, 4)
    operators.moe_sum(x, out, ids, expert_map)
    assert out.tolist() == [[1.0] * 4, [2.0] * 4]


def computed(peer, scheme: Scheme, shape: Shape) -> tuple[float, float]:
    """The peer's error on a small layer, and the bound of correct kernels."""
    layer = draw_layer(shape, scheme, 0, "cpu")
    tokens = draw_workload(layer, shape, scheme, 5, "uniform", 1, 0).inputs[0]
    run = peer.bind(layer)
    assert run is not None
    return relative_error(run(tokens), tokens.reference(dtype=torch.float32)), tokens.error_bound()


@pytest.fixture(scope="module")
def partial_vllm():
    """What is imported of vLLM here is no vLLM for other tests."""
    before, path = list(sys.meta_path), list(sys.path)
    yield
    sys.meta_path[:], sys.path[:] = before, path
    for name in list(sys.modules):
        if name.split(".")[0] in ("vllm", "triton_kernels"):
            del sys.modules[name]


needs_sources = pytest.mark.skipif(
    not (sources.SOURCES / "vllm").is_dir() or torch.cuda.is_available(),
    reason="vendor-bench/vllm is not there, or runs on the GPU",
)


@needs_sources
@pytest.mark.parametrize(
    ("scheme", "shape"),
    [
        ("fp16", Shape(4, 2, 256, 128)),
        ("fp16", Shape(8, 2, 256, 128, ep_size=2)),
        ("fp16", Shape(4, 2, 256, 128, activation="swigluoai", bias=True)),
        ("int8_w8a16", Shape(8, 2, 256, 128, ep_size=2)),
        ("int4_w4a16", Shape(4, 2, 256, 128)),
    ],
)
def test_vllms_experts_compute_the_layer(scheme, shape, partial_vllm, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    asked = replace(SCHEMES[scheme], in_dtype="fp16")  # the interpreter has no bf16 products
    error, bound = computed(vllm_triton.PEERS["vllm_triton"], asked, shape)
    assert error <= bound


def test_peers_are_kernels_that_the_rules_know() -> None:
    known = {kernel.class_name for kernel in load_platform("cuda").kernels.values()}
    claimed = [name for peer in PEERS.values() for name in peer.kernels]
    assert set(claimed) <= known
    assert len(claimed) == len(set(claimed)), "two peers are one kernel"


def platform_calls(source: str) -> Iterator[tuple[str, int]]:
    """Name and number of arguments of what a module asks the platform."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            asked = node.func.value
            if isinstance(asked, ast.Name) and asked.id == "current_platform":
                yield node.func.attr, len(node.args) + len(node.keywords)


@needs_sources
def test_the_platform_answers_whatever_vllms_modules_ask() -> None:
    platform, found = sources.hopper(), []
    for name in vllm.REAL:
        file = (sources.SOURCES / "vllm").joinpath(*name.split("."))
        file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
        for question, count in platform_calls(file.read_text()):
            found.append(question)
            inspect.signature(getattr(platform, question)).bind(*[0] * count)
    assert "get_device_capability" in found
