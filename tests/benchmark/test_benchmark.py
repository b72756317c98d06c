"""The benchmark: which rows, what a row trains, reading back, means, tables, published figures and the page."""

from __future__ import annotations

import json
import subprocess
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
import tyro
from benchmark_rows import a_row, finished_row
from rich.console import Console
from tiny_networks import LITE, tiny_pipeline

from genfusion_ns.benchmark import methods as benchmark_methods
from genfusion_ns.benchmark import metrics as held_out
from genfusion_ns.benchmark import row as benchmark_row
from genfusion_ns.benchmark import run as benchmark
from genfusion_ns.errors import UserError

METHODS = ("splatfacto", "2dgs", "genfusion-identity", "genfusion-classical", "genfusion-classical-neither")


@pytest.fixture
def data_root(tmp_path) -> Path:
    for name in ("pond", "attic"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "train_test_split_3.json").write_text("{}")
        (tmp_path / "data" / name / "transforms.json").write_text("{}")
    (tmp_path / "data" / "points only").mkdir()
    return tmp_path / "data"


# -- rows ------------------------------------------------------------------------------------------------------------


def test_every_combination_once(data_root):
    args = benchmark.Benchmark(data_root=data_root, splits=("all", "3"), seeds=(1, 2))
    rows = benchmark.rows_of(args, ["2dgs", "genfusion-identity"])
    assert [(row.title, row.split, row.method, row.seed) for row in rows] == [
        (scene, split, method, seed)
        for scene in ("attic", "pond")
        for split in ("all", "3")
        for method in ("2dgs", "genfusion-identity")
        for seed in (1, 2)
    ]
    assert len({benchmark.name_of(row, "code") for row in rows}) == len(rows)


def test_options_of_the_command_line():
    args = tyro.cli(benchmark.Benchmark, args=["--steps", "9", "--seeds", "1", "2", "--splits", "masked-half", "3"])
    assert (args.max_num_iterations, args.seeds, args.splits) == (9, (1, 2), ("masked-half", "3"))
    assert tyro.cli(benchmark.Benchmark, args=["--max-num-iterations", "9"]).max_num_iterations == 9


def test_what_cannot_be_found_is_named(data_root, tmp_path):
    def rows(**settings):
        return benchmark.rows_of(benchmark.Benchmark(**settings), ["2dgs"])

    with pytest.raises(UserError, match="no such scene folder.*lake.*--data-root"):
        rows(scenes=("pond", "lake"), data_root=data_root)
    with pytest.raises(UserError, match="no cameras in .*points only"):
        rows(scenes=("points only",), data_root=data_root)
    with pytest.raises(UserError, match="holds no scene"):
        rows(data_root=tmp_path / "empty")


def test_protocols_of_the_public_layouts(tmp_path):
    """Factor 4 on Mip-NeRF 360 and DL3DV; masked trains on every second frame of DL3DV, as published."""
    for file in ("garden/sparse/0/cameras.bin", "garden/images_4/a.jpg", f"{'a' * 12}/nerfstudio/transforms.json"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    (tmp_path / ("a" * 12) / "nerfstudio" / "images_4").mkdir()
    args = benchmark.Benchmark(data_root=tmp_path, splits=("3", "masked", "masked-quarter"), split_root=tmp_path / "x")
    rows = benchmark.rows_of(args, ["2dgs"])
    found = [(row.title, row.split, row.downscale_factor, row.train_every, row.split_folder) for row in rows]
    lists = str(tmp_path / "x")
    assert found == [
        ("a" * 10, "3", 4, 0, lists),
        ("a" * 10, "masked", 4, 2, None),
        ("a" * 10, "masked-quarter", 4, 4, None),
        ("garden", "3", 4, 0, lists),
        ("garden", "masked", 4, 0, None),
        ("garden", "masked-quarter", 4, 4, None),
    ]
    assert Path(rows[0].scene) == tmp_path / ("a" * 12) / "nerfstudio"


# -- methods ---------------------------------------------------------------------------------------------------------


def test_names_of_methods(monkeypatch):
    monkeypatch.setattr(benchmark_methods, "bundled_names", lambda: [])
    recipe = benchmark_methods.recipe_of
    assert recipe("2dgs").repairer is None and recipe("splatfacto").model == "splatfacto"
    assert recipe("genfusion-classical") == benchmark_methods.Recipe("genfusion", "classical")
    assert recipe("genfusion-lite") == benchmark_methods.Recipe("genfusion", "diffusion", "lite")
    assert recipe("genfusion:/my/weights-neither").weights == "/my/weights-neither"
    ablations = {
        name: (found.expand, found.sparsity_aware, found.every)
        for name in ("no-expansion", "no-densifier", "neither", "every-500")
        for found in [recipe(f"genfusion-identity-{name}")]
    }
    assert ablations == {
        "no-expansion": (False, True, None),
        "no-densifier": (True, False, None),
        "neither": (False, False, None),
        "every-500": (True, True, 500),
    }
    assert [benchmark_methods.is_ablation(f"genfusion-lite{end}") for end in ("", "-neither")] == [False, True]
    for wrong in ("genfusion", "genfusion-", "genfusion:", "3dgs", "genfusion-diffusion", "genfusion-identity-nothing"):
        with pytest.raises(UserError, match="no method.*genfusion:WEIGHTS"):
            recipe(wrong)


def test_what_cannot_run_is_left_out_with_a_line(monkeypatch):
    monkeypatch.setattr(benchmark_methods, "bundled_names", lambda: [])
    methods, lines = benchmark_methods.runnable((), has_cuda=False)
    assert methods == ["2dgs", "genfusion-identity", "genfusion-classical"]
    assert len(lines) == 2 and "CUDA" in lines[0] and "genfusion-lite is left out" in lines[1] and "lite" in lines[1]
    monkeypatch.setattr(benchmark_methods, "bundled_names", lambda: ["lite"])
    assert benchmark_methods.runnable((), has_cuda=True) == (list(benchmark_methods.DEFAULTS), [])


def tiny_weights(folder: Path, **settings) -> None:
    """A saved pipeline of a few thousand random weights that works in one step."""
    tiny_pipeline(replace(LITE, settings=LITE.settings | settings)).save_pretrained(folder)


@pytest.mark.slow
def test_bundled_weights_repair_in_the_loop(config_of, tmp_path, monkeypatch):
    from genfusion_ns.cameras import Camera
    from genfusion_ns.loop.repairers.base import RGBDClip

    monkeypatch.setattr("diffusion.loading.BUNDLED", tmp_path / "weights")
    assert benchmark_methods.runnable(["genfusion-lite"], False)[0] == []
    tiny_weights(tmp_path / "weights" / "lite", default_steps=1)
    assert benchmark_methods.runnable(["genfusion-lite"], False) == (["genfusion-lite"], [])
    loop = config_of(method="genfusion-lite").pipeline.datamanager.loop
    assert (loop.repairer, loop.diffusion.weights, loop.diffusion.steps) == ("diffusion", "lite", None)
    plans: list[str] = []
    repairer = loop.make_repairer("cpu", plans.append)
    random = torch.Generator().manual_seed(0)
    rgb, depth = torch.rand(3, 16, 24, 3, generator=random), 1 + torch.rand(3, 16, 24, 1, generator=random)
    camera = Camera(torch.eye(4), torch.eye(3), 24, 16)
    repaired = repairer.repair(RGBDClip(rgb, depth, torch.ones_like(depth), [camera] * 3), rgb[0])
    assert repaired.rgb.shape == rgb.shape and repaired.rgb.isfinite().all()
    assert repairer.fingerprint == benchmark_methods.weights_hash("genfusion-lite") != ""
    assert ", 1 steps" in plans[0]


def test_other_weights_of_the_same_name_are_measured_anew(data_root, tmp_path):
    weights = tmp_path / "weights"
    (weights / "unet").mkdir(parents=True)
    names = []
    for content in (b"one", b"two", b"one"):
        (weights / "unet" / "a.safetensors").write_bytes(content)
        args = benchmark.Benchmark(data_root=data_root, scenes=("pond",), splits=("3",))
        (row,) = benchmark.rows_of(args, [f"genfusion:{weights}"])
        names.append(benchmark.name_of(row, "code"))
    assert names[0] == names[2] != names[1]
    assert "/" not in names[0]
    with pytest.raises(UserError, match="no weights 'nowhere'"):
        benchmark.rows_of(args, ["genfusion:nowhere"])


# -- what a row trains -----------------------------------------------------------------------------------------------


@pytest.fixture
def config_of(tmp_path):
    pytest.importorskip("nerfstudio")
    return lambda **changes: benchmark_row.trainer_config(a_row(**changes), tmp_path)


def test_all_methods_get_the_same_views_and_first_points(config_of):
    configs = {method: config_of(method=method) for method in METHODS}
    for config in configs.values():
        data = config.pipeline.datamanager
        assert (data.dataparser.sparse_views, data.max_image_side, data.seed) == (3, 64, 1)
        assert data.initial_points == "depth" and data.mask == "none"
        assert config.max_num_iterations == 50 and config.machine.seed == 1
    loops = {method: config.pipeline.datamanager.loop for method, config in configs.items()}
    assert {method: loop.every > 0 for method, loop in loops.items()} == {m: "genfusion" in m for m in METHODS}
    assert loops["genfusion-classical"].repairer == loops["genfusion-classical-neither"].repairer == "classical"


def test_ablations_leave_out_what_they_say(config_of):
    from genfusion_ns.gaussians.densify import GradientDensifier
    from genfusion_ns.gaussians.densify_sparse import SparsityAwareDensifier

    full, no_expansion, no_densifier, neither, seldom = (
        config_of(method=f"genfusion-identity{end}").pipeline
        for end in ("", "-no-expansion", "-no-densifier", "-neither", "-every-2000")
    )
    assert (full.datamanager.loop.every, seldom.datamanager.loop.every) == (1000, 2000)
    assert full.datamanager.loop.expand == no_densifier.datamanager.loop.expand > 0
    assert no_expansion.datamanager.loop.expand == neither.datamanager.loop.expand == 0
    for pipeline in (full, no_expansion):
        assert type(pipeline.model.densifier) is SparsityAwareDensifier
    for pipeline in (no_densifier, neither):
        assert type(pipeline.model.densifier) is GradientDensifier
        for field in fields(GradientDensifier):
            name = field.name
            assert getattr(pipeline.model.densifier, name) == getattr(full.model.densifier, name)


def test_masked_rows_and_the_papers_recipes(config_of):
    ours, paper = (config_of(split="masked", recipes=r, train_every=2).pipeline for r in ("ours", "paper"))
    for pipeline in (ours, paper):
        assert pipeline.datamanager.mask == "moving" and pipeline.datamanager.dataparser.train_every == 2
        assert "captured" in pipeline.datamanager.loop.trajectories
    assert paper.model.ssim_lambda == 0.8 and paper.datamanager.loop.weight == 0.5
    assert config_of(recipes="paper").pipeline.model.ssim_lambda == 0.5


def test_weights_and_leaky_points_are_passed_on(config_of):
    config = config_of(method="genfusion:/my/weights", initial_points="official")
    loop = config.pipeline.datamanager.loop
    assert (loop.repairer, loop.diffusion.weights) == ("diffusion", "/my/weights")
    assert config.pipeline.datamanager.initial_points == "official"


# -- measuring -------------------------------------------------------------------------------------------------------


def test_rows_are_read_back_unless_settings_or_code_differ(data_root, tmp_path, monkeypatch):
    args = benchmark.Benchmark(data_root=data_root, out=tmp_path / "out", lpips_weights=tmp_path)
    calls: list[list[str]] = []

    def train(command, **_kwargs):
        calls.append(command)
        Path(command[4]).write_text(json.dumps(finished_row(a_row(), psnr=20.0 + len(calls))))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(benchmark.subprocess, "run", train)
    console = Console(quiet=True)
    first = benchmark.measured(a_row(), args, "code1", console)
    assert first is not None and first["psnr"] == 21.0 and first["code"] == "code1"
    assert benchmark.measured(a_row(), args, "code1", console) == first and len(calls) == 1
    other = a_row(seed=2)
    changed = [benchmark.measured(row, args, code, console) for row, code in ((other, "code1"), (a_row(), "code2"))]
    assert [row["psnr"] for row in changed if row is not None] == [22.0, 23.0]
    args.fresh = True
    assert benchmark.measured(a_row(), args, "code1", console) != first


def test_the_end_of_a_failed_rows_log_is_shown(data_root, tmp_path, monkeypatch, capsys):
    args = benchmark.Benchmark(data_root=data_root, out=tmp_path / "out", lpips_weights=tmp_path)

    def crash(command, stdout, **_kwargs):
        stdout.write("Traceback\nValueError: too dark\n")
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(benchmark.subprocess, "run", crash)
    assert benchmark.measured(a_row(), args, "code", Console()) is None
    assert "ValueError: too dark" in capsys.readouterr().out


@pytest.mark.slow
def test_lpips_in_all_variants(shared, tmp_path, monkeypatch):
    """Reference figures of LPIPS's own example images are not at hand; identity, order and the paper's variant are."""
    args = benchmark.Benchmark(out=tmp_path, lpips_weights=shared / "weights")
    monkeypatch.setenv("TORCH_HOME", str(benchmark.torch_home(args)))
    perceptual = held_out.Perceptual()
    random = torch.Generator().manual_seed(0)
    photo = torch.rand(40, 48, 3, generator=random)
    near, far = (photo + s * torch.randn(40, 48, 3, generator=random) for s in (0.05, 0.5))
    same, close, distant = (perceptual(image, photo) for image in (photo, near, far))
    assert set(same) == {"lpips", "lpips_vgg", "lpips_vgg_paper"}
    for name in same:
        assert same[name] == pytest.approx(0, abs=1e-6) and same[name] < close[name] < distant[name]
    # the paper's variant is the usual one on images mapped to [-1, 1], fed with what maps to theirs
    mapped = perceptual((photo + 1) / 2, (far.clamp(0, 1) + 1) / 2)
    assert mapped["lpips_vgg"] == pytest.approx(distant["lpips_vgg_paper"], rel=1e-4)
    assert perceptual(photo[:20], photo[:20]) == {}


@pytest.mark.slow
def test_lpips_without_its_weights_is_left_out(tmp_path, monkeypatch, capsys):
    from urllib.error import URLError

    def offline(*_args, **_kwargs):
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", offline)
    assert held_out.Perceptual()(torch.rand(40, 40, 3), torch.rand(40, 40, 3)) == {}
    assert "alexnet-owt-7be5be79.pth" in capsys.readouterr().out
