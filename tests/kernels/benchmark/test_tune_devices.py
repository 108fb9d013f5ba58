"""Tuning on devices, without a GPU: calls that are only compiled, and those of the CPU."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from moe_kernels.benchmark.peers import converted  # noqa: E402
from moe_kernels.benchmark.shapes import SCHEMES, SHAPES, TOKENS, Shape  # noqa: E402
from moe_kernels.benchmark.tune import gpu  # noqa: E402
from moe_kernels.benchmark.tune import layers as tune_layers  # noqa: E402
from moe_kernels.benchmark.tune.compiling import Job, _hollow, compile_jobs  # noqa: E402
from moe_kernels.benchmark.tune.cpu import CpuMeasurer  # noqa: E402
from moe_kernels.benchmark.tune.gpu import GpuMeasurer, _tiles  # noqa: E402
from moe_kernels.benchmark.tune.layers import (  # noqa: E402
    Contender,
    TuneLayer,
    draw,
    load,
    named_layers,
)
from moe_kernels.benchmark.tune.measurer import DeviceError  # noqa: E402
from moe_kernels.benchmark.tune.session import Lines  # noqa: E402
from moe_kernels.tiling import layer_config  # noqa: E402
from moe_kernels.tiling.tuned_configs import LayerKey  # noqa: E402
from tilings import START, separable  # noqa: E402


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_search_without_a_gpu_is_refused():
    with pytest.raises(DeviceError, match="torch sees none here"):
        GpuMeasurer("uniform", 0)


def test_kernels_of_the_cpu_are_timed(tmp_path):
    shape = Shape(4, 2, 128, 128)
    contenders = tuple(
        replace(named_layers([shape], [SCHEMES["fp8_block"]])[0].contenders[0], **names)
        for names in (
            {"backend": "CPU_W8A8", "kernel": "CPUExpertsFp8W8A8"},
            {"backend": "CPU", "kernel": "CPUExpertsFp8"},
            {"backend": "TRITON", "kernel": "TritonWNA16Experts"},
        )
    )
    measurer = CpuMeasurer("skewed", 1)
    notes = Lines()
    layer = TuneLayer(shape.moe_config(), contenders)
    measurer.load(layer, notes)
    found = measurer.measure(3, 0.1, notes)
    assert [(m.layer, m.num_tokens, m.backend, m.kernel, m.tiling) for m in found] == [
        (str(layer), 3, c.backend, c.kernel, None) for c in contenders[:2]
    ]
    assert all(m.us > 0 for m in found)
    assert set(measurer.facts) >= {"device", "date", "torch", "threads"}


def test_a_kernel_with_wrong_results_is_not_timed(monkeypatch):
    from moe_kernels.modular_kernel import FusedMoEKernel

    right = FusedMoEKernel.apply
    monkeypatch.setattr(
        FusedMoEKernel, "apply", lambda *args, **others: 1.5 * right(*args, **others)
    )
    with pytest.raises(ValueError, match=r"relative error is 5\.0e-01, above the bound"):
        load(Shape(4, 2, 64, 64).moe_config(), Contender("CPU", "CPUUnquantizedExperts"), "cpu", 0)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("ep_size", [1, 4])
def test_hollow_layers_are_like_those_that_are_measured(scheme, ep_size):
    (layer,) = named_layers([Shape(16, 2, 256, 128, ep_size)], [SCHEMES[scheme]])
    contender, config = layer.contenders[0], layer.config
    hollow, kernel = _hollow(contender, config, "cpu")
    real = converted(draw(config, contender, "cpu", 0), contender.kernel)
    assert type(kernel.experts).__name__ == contender.kernel
    pairs = [(hollow.w13, real.w13), (hollow.w2, real.w2)]
    quant = vars(real.quant_config)
    pairs += [(getattr(hollow.quant_config, name), value) for name, value in quant.items()]
    for one, other in pairs:
        if isinstance(other, torch.Tensor):
            assert (one.shape, one.stride(), one.dtype) == (
                other.shape,
                other.stride(),
                other.dtype,
            )
        else:
            assert one == other
    assert (hollow.expert_map is None) == (real.expert_map is None)
    assert hollow.w13[-1].shape == real.w13[-1].shape


@pytest.mark.skipif(torch.cuda.is_available(), reason="compiles nothing without a GPU")
def test_every_job_ends_in_another_process_or_not_at_all():
    (layer,) = named_layers([Shape(4, 2, 128, 64)], [SCHEMES["fp8_block"]])
    contender, call = layer.contenders[0], (layer.config, 4)
    jobs = {Job.of(contender, tile, call): [call] for tile in (None, START.up)}
    ended = {}
    compile_jobs(jobs, 1, 600.0, lambda job, failures: ended.update({job: failures}))
    assert list(ended) == list(jobs)
    for failures in ended.values():
        assert list(failures) == [layer.config]
        assert "cuda" in failures[layer.config].lower()
    compile_jobs(jobs, 1, 0.0, lambda job, failures: pytest.fail("no time was left"))


def test_calls_that_share_kernels_are_one_job():
    (layer,) = named_layers([SHAPES["qwen3-30b-a3b"]], [SCHEMES["bf16"]])
    contender, tile = layer.contenders[0], START.up
    jobs = [Job.of(contender, tile, (layer.config, tokens)) for tokens in (1, 2, 4, 16, 64, 4096)]
    assert len(set(jobs)) == 3
    other = layer.config, 4
    assert Job.of(contender, None, other) != Job.of(contender, None, (layer.config, 8))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_named_layers_have_tilings_to_try(scheme):
    for layer in named_layers(SHAPES.values(), [SCHEMES[scheme]]):
        for tokens in TOKENS:
            tiles = _tiles(layer, layer.contenders[0], tokens)
            assert tiles
            if scheme == "fp8_block":
                assert all(tile.block_k <= 128 for tile in tiles)


# Triton's interpreter multiplies no bf16.
@pytest.fixture
def gpu_measurer(monkeypatch):
    """A measurer whose GPU is Triton's interpreter, and whose times are those of ``separable``."""
    if torch.cuda.is_available():
        pytest.skip("this GPU leaves Triton no interpreter")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Test GPU")
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(gpu, "load", lambda c, contender, _, seed: load(c, contender, "cpu", seed))

    monkeypatch.setattr(gpu, "rotations", lambda tokens, size: 1)
    monkeypatch.setattr(tune_layers, "CHECKED_TOKENS", 4)

    def graph_us(calls, replays):
        config = layer_config._trial.config
        return 100.0 if config is None else separable(config)

    def compile_jobs(jobs, workers, seconds, done):
        for job, calls in jobs.items():
            too_wide = job.tile is not None and job.tile.block_n == 256
            done(job, {config: "too wide" for config, _ in calls} if too_wide else {})

    monkeypatch.setattr(gpu, "graph_us", graph_us)
    monkeypatch.setattr(gpu, "compile_jobs", compile_jobs)
    return GpuMeasurer("uniform", 0)


def test_a_layer_is_searched(gpu_measurer, capsys):
    (layer,) = named_layers([Shape(4, 2, 128, 64)], [SCHEMES["fp16"]])
    progress = Lines()
    gpu_measurer.prepare([(layer, 20)], 1.0, progress)
    gpu_measurer.load(layer, progress)
    (found,) = gpu_measurer.measure(20, 1e6, progress)
    tiling = found.tiling
    assert tiling.key == LayerKey("bf16", 4, 128, 128)
    assert tiling.pairs == 40
    assert found.us == separable(tiling.config) < tiling.heuristic_us
    assert tiling.tried > 4
    contender = layer.contenders[0]
    tried = {t.block_n for t in _tiles(layer, contender, 20)}
    assert (256 in tried) == ("not compiled: TritonExperts" in capsys.readouterr().out)


def test_a_tiling_with_another_result_is_not_taken(gpu_measurer, monkeypatch, capsys):
    (layer,) = named_layers([Shape(4, 2, 128, 64)], [SCHEMES["fp16"]])
    progress = Lines()
    gpu_measurer.prepare([(layer, 20)], 1.0, progress)
    gpu_measurer.load(layer, progress)
    monkeypatch.setattr(gpu, "relative_error", lambda *_: 0.5)
    (found,) = gpu_measurer.measure(20, 1e6, progress)
    assert found.us == found.tiling.heuristic_us
    assert "gives another result (5.0e-01)" in capsys.readouterr().out


def test_what_was_not_compiled_is_not_tried(gpu_measurer):
    (layer,) = named_layers([Shape(4, 2, 128, 64)], [SCHEMES["fp16"]])
    gpu_measurer.load(layer, Lines())
    (found,) = gpu_measurer.measure(20, 1e6, Lines())
    assert found.tiling.tried == 1
    assert found.us == found.tiling.heuristic_us
