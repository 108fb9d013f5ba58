"""Tuned tilings: the nearest one measured is taken, stale and wrong files are told apart."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from moe_kernels.tensor_spec import TensorSpec, contiguous_spec  # noqa: E402
from moe_kernels.tiling import tuned_configs  # noqa: E402
from moe_kernels.tiling.layer_config import layer_config, trial  # noqa: E402
from moe_kernels.tiling.tile_config import FEW_ROWS, LayerConfig, TileConfig  # noqa: E402
from moe_kernels.tiling.tuned_configs import (  # noqa: E402
    LayerKey,
    TunedConfig,
    TunedConfigError,
    TunedFile,
    kept_while_tilings_hold,
    nearest,
    read,
    scheme_name,
    write,
)

DEVICE = "Test GPU (80 GB)"
LAYER = LayerKey("bf16", 8, 1024, 512)


def weights(key: LayerKey = LAYER) -> tuple[TensorSpec, TensorSpec]:
    facts = torch.bfloat16, torch.device("meta")
    w13 = contiguous_spec((key.experts, key.w13_rows, key.hidden_dim), *facts)
    return w13, contiguous_spec((key.experts, key.hidden_dim, key.w13_rows // 2), *facts)


def tiling(block_n: int) -> LayerConfig:
    """A tiling that is known by its ``block_n`` and that no rule of thumb gives."""
    tile = TileConfig(16, block_n, 32, 3, 1, 5)
    return LayerConfig(tile, tile._replace(num_warps=2))


def tuned_file(entries: dict[float, int], key: LayerKey = LAYER, triton: str = "") -> TunedFile:
    here = tuned_configs.versions()
    configs = [TunedConfig(pairs, tiling(n), 10.0, 12.5) for pairs, n in entries.items()]
    return TunedFile(
        DEVICE, key.scheme, here[0], triton or here[1], "2026-11-27", "tune anew", {key: configs}
    )


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """The packaged folder and two of the user's, on a machine with the test's GPU."""
    paths = {name: tmp_path / name for name in ("packaged", "first", "second")}
    for path in paths.values():
        path.mkdir()
    monkeypatch.setattr(tuned_configs, "PACKAGED", paths["packaged"])
    monkeypatch.setattr(tuned_configs, "device_name", lambda device: DEVICE)
    monkeypatch.setenv(tuned_configs.PATH_VARIABLE, f"{paths['first']}:{paths['second']}")
    tuned_configs.forget()
    return paths


@pytest.fixture(autouse=True)
def forget():
    yield
    tuned_configs.forget()


def put(folder: Path, file: TunedFile) -> Path:
    path = folder / tuned_configs.file_name(file.device, file.scheme)
    write(path, file)
    return path


def test_a_measured_layer_takes_its_tiling_and_others_the_rules_of_thumb(folders):
    heuristic = layer_config(64, *weights())
    other = LAYER._replace(experts=16)
    heuristic_of_other = layer_config(64, *weights(other))
    put(folders["packaged"], tuned_file({64: 256}))
    tuned_configs.forget()
    assert layer_config(64, *weights()) == tiling(256) != heuristic
    assert layer_config(64, *weights(other)) == heuristic_of_other
    assert layer_config(64 * 5, *weights()) != tiling(256), "too far from what was measured"


def test_files_are_read_once(folders, monkeypatch):
    path = put(folders["packaged"], tuned_file({64: 256}))
    assert layer_config(64, *weights()) == tiling(256)
    path.write_text("no longer JSON")
    monkeypatch.setattr(tuned_configs, "read", lambda _: pytest.fail("read again"))
    for pairs in (64, 65, 64):
        assert layer_config(pairs, *weights()) == tiling(256)


@given(
    pairs=st.floats(0.01, 1e7),
    measured=st.lists(st.integers(1, 200_000), min_size=1, max_size=8, unique=True),
)
def test_the_nearest_by_ratio_is_taken(pairs, measured):
    table = [TunedConfig(m, LayerConfig(m, m), 1.0, 1.0) for m in measured]
    found = nearest(table, pairs)
    ratios = {m: max(m / pairs, pairs / m) for m in measured}
    if found is None:
        assert min(ratios.values()) > tuned_configs.FARTHEST
    else:
        assert ratios[found.up] == pytest.approx(min(ratios.values()))
        assert ratios[found.up] <= tuned_configs.FARTHEST * (1 + 1e-6)


def test_nothing_is_near_where_nothing_was_measured():
    assert nearest([], 5) is None


def test_earlier_folders_come_first_and_packaged_files_last(folders):
    other, third = LAYER._replace(experts=4), LAYER._replace(experts=2)
    for name, n, keys in (
        ("packaged", 16, (LAYER, other, third)),
        ("second", 32, (LAYER, other)),
        ("first", 64, (LAYER,)),
    ):
        layers = {key: tuned_file({8: n}, key).layers[key] for key in keys}
        put(folders[name], TunedFile(**vars(tuned_file({8: n})) | {"layers": layers}))
    assert layer_config(8, *weights()) == tiling(64)
    assert layer_config(8, *weights(other)) == tiling(32)
    assert layer_config(8, *weights(third)) == tiling(16)


def test_a_stale_file_is_reported_once_and_not_used(folders):
    heuristic = layer_config(64, *weights())
    tuned_configs.forget()
    path = put(folders["packaged"], tuned_file({64: 256}, triton="1.0"))
    with pytest.warns(UserWarning, match="not used") as caught:
        assert layer_config(64, *weights()) == heuristic
    (warning,) = caught
    torch_version, triton_version = tuned_configs.versions()
    for word in (str(path), "Triton 1.0", torch_version, triton_version, "tune anew"):
        assert word in str(warning.message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert layer_config(65, *weights()) == heuristic


def test_a_stale_file_does_not_hide_a_fresh_one(folders):
    put(folders["packaged"], tuned_file({64: 256}))
    put(folders["first"], tuned_file({64: 128}, triton="1.0"))
    with pytest.warns(UserWarning, match="not used"):
        assert layer_config(64, *weights()) == tiling(256)


def test_a_folder_that_is_missing_is_named(folders, monkeypatch):
    monkeypatch.setenv(tuned_configs.PATH_VARIABLE, "/no/such/folder")
    with pytest.raises(TunedConfigError, match=r"MOE_RULES_TUNED_CONFIGS.*/no/such/folder"):
        layer_config(64, *weights())


def test_a_file_under_another_name_is_refused(folders):
    path = put(folders["packaged"], tuned_file({64: 256}))
    path.rename(path.with_name(tuned_configs.file_name(DEVICE, "fp8")))
    with pytest.raises(TunedConfigError, match=r"belong into a file called Test_GPU_80_GB_\.bf16"):
        tuned_configs._table(DEVICE, "fp8")


@given(
    st.dictionaries(
        st.builds(LayerKey, st.just("bf16"), *[st.integers(1, 99999)] * 3),
        st.dictionaries(st.floats(0.01, 1e6), st.sampled_from([16, 64, 256]), min_size=1),
        max_size=4,
    )
)
def test_what_is_written_is_read(tmp_path_factory, layers):
    configs = {
        key: tuple(TunedConfig(p, tiling(n), 1.25, 2.5) for p, n in sorted(entries.items()))
        for key, entries in layers.items()
    }
    file = TunedFile(**vars(tuned_file({})) | {"layers": configs})
    path = tmp_path_factory.mktemp("configs") / "file.json"
    write(path, file)
    assert read(path) == file


WRONG = {
    "no JSON": (lambda raw: "{", "Expecting"),
    "a list": (lambda raw: [raw], "the file: expected the keys device, scheme"),
    "a missing key": (lambda raw: raw | {"layers": None} and {"device": "x"}, "expected the keys"),
    "no text": (lambda raw: raw | {"triton": 3.6}, "triton: expected text, got 3.6"),
    "no list": (lambda raw: raw | {"layers": {}}, r"layers: expected a list, got \{\}"),
    "a layer twice": (lambda raw: raw | {"layers": raw["layers"] * 2}, r"layers\[1\].*twice"),
    "no experts": (
        lambda raw: change(raw, lambda layer: layer.update(experts=0)),
        r"layers\[0\]\.experts: expected a whole number from 1 up, got 0",
    ),
    "five sizes": (
        lambda raw: change_entry(raw, up=[16, 64, 32, 1, 4]),
        r"layers\[0\]\.configs\[0\]\.up: expected block_m, block_n, block_k, group_m, num_warps",
    ),
    "no flag": (
        lambda raw: change_entry(raw, up=[16, 64, 32, 1, 4, 3, 1]),
        r"configs\[0\]\.up: warp_specialized must be true or false, got 1",
    ),
    "no power of two": (
        lambda raw: change_entry(raw, down=[16, 48, 32, 1, 4, 3]),
        r"configs\[0\]\.down: block_n must be a power of two, got 48",
    ),
    "two block_m": (
        lambda raw: change_entry(raw, down=[32, 64, 32, 1, 4, 3]),
        r"configs\[0\]: up and down must have the same block_m",
    ),
    "no pairs": (
        lambda raw: change_entry(raw, pairs=0),
        r"configs\[0\]\.pairs: expected a number above 0, got 0",
    ),
}


def change(raw, edit):
    edit(raw["layers"][0])
    return raw


def change_entry(raw, **values):
    raw["layers"][0]["configs"][0].update(values)
    return raw


@pytest.mark.parametrize(("edit", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_file_names_itself_and_the_key(tmp_path, edit, message):
    path = put(tmp_path, tuned_file({64: 256}))
    wrong = edit(json.loads(path.read_text()))
    path.write_text(wrong if isinstance(wrong, str) else json.dumps(wrong))
    with pytest.raises(TunedConfigError, match=message) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_trial_comes_before_any_file_and_notes_what_was_asked(folders):
    heuristic = layer_config(64, *weights())
    tuned_configs.forget()
    put(folders["packaged"], tuned_file({64: 256}))
    with trial(tiling(32)) as asked:
        assert layer_config(64, *weights()) == tiling(32)
    assert asked == [(LAYER, 64, heuristic)]
    with trial(None):
        assert layer_config(64, *weights()) == heuristic
    assert layer_config(64, *weights()) == tiling(256)


def test_what_asks_for_tilings_is_kept_as_long_as_they_hold(folders):
    @kept_while_tilings_hold
    def block_n(pairs: float) -> int:
        return layer_config(pairs, *weights()).up.block_n

    heuristic = block_n(64)
    put(folders["packaged"], tuned_file({64: 256}))
    assert block_n(64) == heuristic
    tuned_configs.forget()
    assert block_n(64) == 256
    with trial(tiling(32)):
        assert block_n(64) == 32
    assert block_n(64) == 256


def test_schemes_are_words():
    assert scheme_name(torch.float16) == scheme_name(torch.bfloat16)
    assert scheme_name(torch.float8_e4m3fn, (128, 128)) == "fp8-128x128"
    assert scheme_name(torch.uint8, None, "mxfp4") == "mxfp4"
    assert scheme_name(torch.uint8, None, "mxfp4", torch.float32) == "mxfp4_fp32"


@pytest.mark.parametrize("path", sorted(tuned_configs.PACKAGED.glob("*.json")), ids=str)
def test_packaged_files_are_right(path):
    file = read(path)
    assert path.name == tuned_configs.file_name(file.device, file.scheme)
    assert file.layers


def test_a_measured_tiling_of_few_rows_is_taken_where_there_is_the_program(folders):
    tile = TileConfig(FEW_ROWS, 16, 64, 1, 4, 2)
    file = tuned_file({64: 256})
    entry = TunedConfig(64, LayerConfig(tile, tile), 10.0, 12.5)
    put(folders["packaged"], dataclasses.replace(file, layers={LAYER: [entry]}))
    tuned_configs.forget()
    assert layer_config(64, *weights(), few_rows=1).up == tile
    assert layer_config(64, *weights()).up.block_m > FEW_ROWS
    with trial(LayerConfig(tile, tile)):
        assert layer_config(64, *weights(), few_rows=1).up == tile
        assert layer_config(64, *weights()).up.block_m > FEW_ROWS
