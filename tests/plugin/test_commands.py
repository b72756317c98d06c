"""Every `ns-*` and `genfusion-*` command on one small trained run, through the functions that the programs call."""

from __future__ import annotations

import json
import math
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import open3d as o3d
import pytest
import torch
from nerfstudio.scripts.eval import ComputePSNR
from nerfstudio.scripts.exporter import ExportCameraPoses, ExportGaussianSplat, ExportTSDFMesh
from nerfstudio.scripts.render import DatasetRender, RenderCameraPath, RenderInterpolated
from PIL import Image
from plyfile import PlyData

from genfusion_ns.commands import camera_path, export, mesh
from genfusion_ns.errors import UserError
from genfusion_ns.plugin.config import cpu_config
from genfusion_ns.plugin.runs import load_run

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ns-render looks for the ffmpeg program")


@pytest.fixture(scope="module")
def trained(scene, tmp_path_factory) -> tuple[Path, str]:
    """config.yml of a run of 200 steps on the small room, and what the run said."""
    from nerfstudio.utils.rich_utils import CONSOLE

    config = cpu_config("genfusion-cpu")
    config.data = config.pipeline.datamanager.data = scene
    config.output_dir = tmp_path_factory.mktemp("a run")
    config.vis = "tensorboard"
    config.max_num_iterations = 200
    config.pipeline.datamanager.max_seed_points = 400
    config.pipeline.datamanager.initial_points = "all"
    config.pipeline.datamanager.loop.repairer = "classical"  # quick
    config.pipeline.model.densifier.reset_every = 0  # so short a run would not recover
    config.optimizers["opacities"]["optimizer"].run_factor = 1.0  # at four times the rate a third of 400 would fade
    config.set_timestamp()
    config.save_config()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    with CONSOLE.capture() as said:
        trainer.train()
    return config.get_base_dir() / "config.yml", said.get()


@pytest.fixture(scope="module")
def run(trained) -> Path:
    """config.yml of the run."""
    return trained[0]


@pytest.fixture
def no_lpips(monkeypatch, tmp_path):
    """A torch home without LPIPS's backbone, and no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("torch.hub.urlopen", _offline)


def _offline(*args, **kwargs):
    from urllib.error import URLError

    raise URLError("Name or service not known")


def results(path: Path) -> dict[str, float]:
    return json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no valid JSON"))["results"]


@pytest.mark.slow
def test_eval_writes_metrics_and_pictures_without_lpips(run, tmp_path, no_lpips, capsys):
    ComputePSNR(run, tmp_path / "metrics.json", tmp_path / "pictures").main()
    found = results(tmp_path / "metrics.json")
    assert found["psnr"] > 8 and 0 < found["ssim"] < 1 and "lpips" not in found
    assert len(list((tmp_path / "pictures").glob("eval_img_*.png"))) == 2  # 12 photos, every 8th held out


@pytest.mark.slow
def test_eval_psnr_is_that_of_the_written_pictures(run, tmp_path, no_lpips):
    """Independent oracle: ground truth and render side by side in one PNG."""
    ComputePSNR(run, tmp_path / "metrics.json", tmp_path / "pictures").main()
    values = []
    for path in sorted((tmp_path / "pictures").glob("eval_img_*.png")):
        truth, render = np.split(np.asarray(Image.open(path), dtype=np.float64) / 255, 2, axis=1)
        values.append(-10 * math.log10(((truth - render) ** 2).mean()))
    assert results(tmp_path / "metrics.json")["psnr"] == pytest.approx(np.mean(values), abs=0.05)


@pytest.mark.slow
def test_a_run_ends_with_its_quality_and_with_commands_to_paste(trained, tmp_path, no_lpips):
    run, said = trained
    ComputePSNR(run, tmp_path / "metrics.json").main()
    expected = results(tmp_path / "metrics.json")
    assert f"held-out photos (2): PSNR {expected['psnr']:.2f} dB, SSIM {expected['ssim']:.3f}" in said
    assert "% observed" in said and str(run.parent / "nerfstudio_models" / "step-000000199.ckpt") in said
    commands = [shlex.split(line) for line in said.splitlines() if line.startswith("  ns-")]
    assert [command[0] for command in commands] == ["ns-viewer", "ns-eval", "ns-render", "ns-export"]
    assert all(command[command.index("--load-config") + 1] == str(run) for command in commands)


@pytest.mark.slow
@needs_ffmpeg
def test_render_dataset_interpolate_and_camera_path(run, tmp_path):
    names = ["rgb", "depth", "normal", "accumulation"]
    DatasetRender(
        load_config=run, output_path=tmp_path / "data", rendered_output_names=names, image_format="png"
    ).main()
    for name in names:
        pictures = list((tmp_path / "data" / "test" / name).glob("*.png"))
        assert len(pictures) == 2
        assert np.asarray(Image.open(pictures[0])).std() > 1, name
    RenderInterpolated(
        load_config=run,
        output_path=tmp_path / "between",
        pose_source="eval",
        interpolation_steps=3,
        output_format="images",
        rendered_output_names=["rgb", "normal"],
    ).main()
    assert len(list((tmp_path / "between").glob("*"))) >= 3
    path = tmp_path / "path.json"
    camera_path.run(
        camera_path.CameraPathArguments(load_config=run, output=path, frames=4, kind="spiral", size=(32, 24))
    )
    RenderCameraPath(
        load_config=run, output_path=tmp_path / "spiral", camera_path_filename=path, output_format="images"
    ).main()
    frames = sorted((tmp_path / "spiral").glob("*"))
    assert len(frames) == 4
    assert Image.open(frames[0]).size == (32, 24)


@pytest.mark.slow
def test_export_gaussian_splat(run, tmp_path):
    """The PLY holds the model's own numbers, in the columns that splat viewers read; Nerfstudio leaves out what is
    fainter than 1/255."""
    ExportGaussianSplat(load_config=run, output_dir=tmp_path).main()
    vertex = PlyData.read(tmp_path / "splat.ply")["vertex"]
    params = load_run(run).pipeline.model.gauss_params
    shown = params["opacities"].detach()[:, 0].sigmoid() > 1 / 255
    assert len(vertex) == int(shown.sum()) > 0.9 * len(shown)
    for column, (name, index) in {"x": ("means", 0), "scale_1": ("scales", 1), "rot_0": ("quats", 0)}.items():
        assert np.allclose(vertex[column], params[name].detach()[shown, index].numpy())
    assert (vertex["scale_2"] < vertex["scale_0"]).all()


@pytest.mark.slow
def test_export_cameras(run, tmp_path):
    ExportCameraPoses(load_config=run, output_dir=tmp_path).main()
    found = json.loads((tmp_path / "transforms_train.json").read_text())
    cameras = load_run(run).training_cameras
    assert len(found) == len(cameras) == 10
    centre = np.array(found[0]["transform"])[:, 3]
    assert np.allclose(centre, cameras[0].position, atol=1e-6)
    assert len(json.loads((tmp_path / "transforms_eval.json").read_text())) == 2


@pytest.mark.slow
def test_exporters_of_fields_name_the_command_that_works(run, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ns-export", "tsdf", "--load-config", str(run)])
    with pytest.raises(UserError, match="genfusion-mesh --load-config"):
        ExportTSDFMesh(load_config=run, output_dir=tmp_path).main()


@pytest.mark.slow
def test_export(run, tmp_path):
    path = tmp_path / "room.ply"
    export.run(export.Export(load_config=run, output=path, provenance=True))
    ours = PlyData.read(str(path))["vertex"]
    assert len(ours) > 100 and set(np.unique(ours["provenance"])) <= {0, 1, 2}
    ExportGaussianSplat(load_config=run, output_dir=tmp_path).main()
    theirs = PlyData.read(str(tmp_path / "splat.ply"))["vertex"]
    assert [p.name for p in theirs.properties] == [p.name for p in ours.properties][:-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"output": Path("splat.obj")}, "ends in .ply or .spz"),
        ({"output": Path("nowhere/splat.ply")}, "nowhere does not exist"),
        ({"output": Path("splat.spz"), "provenance": True}, "--provenance needs a .ply"),
    ],
)
def test_export_says_what_is_wrong(run, arguments, words, capsys):
    with pytest.raises(SystemExit):
        export.run(export.Export(**{"load_config": run, **arguments}))
    assert words in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_mesh(run, tmp_path):
    mesh.run(mesh.MeshArguments(load_config=run, output=tmp_path / "room.ply", voxel_size=0.08))
    found = o3d.io.read_triangle_mesh(str(tmp_path / "room.ply"))
    assert len(found.triangles) > 20 and found.has_vertex_colors()
    assert [path.name for path in tmp_path.iterdir()] == ["room.ply"]


def test_solid_box_leaves_out_faint_and_stray_splats():
    means = torch.linspace(-1, 1, 101)[:, None].repeat(1, 3)
    means = torch.cat([means, torch.full((50, 3), 9.0)])
    opacities = torch.cat([torch.ones(101), torch.full((50,), 0.1)])
    box = mesh.solid_box(means, opacities)
    assert torch.allclose(box, torch.tensor([[-0.98] * 3, [0.98] * 3]), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"output": Path("mesh.xyz")}, "ends in .ply"),
        ({"output": Path("nowhere/mesh.ply")}, "nowhere does not exist"),
        ({"load_config": Path("missing/config.yml")}, "missing/config.yml does not exist"),
    ],
)
def test_mesh_says_what_is_wrong(run, arguments, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        mesh.run(mesh.MeshArguments(**{"load_config": run, **arguments}))
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.slow
def test_loading_a_run_without_checkpoint_says_so(run, tmp_path):
    (tmp_path / "config.yml").write_text(run.read_text())
    with pytest.raises(ValueError, match="holds no checkpoint yet"):
        load_run(tmp_path / "config.yml")


@pytest.mark.slow
def test_user_error_reaches_the_shell_as_one_message(tmp_path):
    """ns-train itself, in a process of its own: exit status 2 and no traceback."""
    import subprocess

    (tmp_path / "empty").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "nerfstudio.scripts.train", "genfusion-cpu", "--data", str(tmp_path / "empty")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert "genfusion-prepare" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not (tmp_path / "outputs").exists()  # a start that failed leaves nothing
