"""A run on the make-believe GPU goes on from its checkpoint; Nerfstudio's commands evaluate, render and export it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from simulated_cuda import SimTensor, simulated_cuda
from simulated_gsplat import install
from simulated_runs import small, started, take_steps

from genfusion_ns.plugin.config import gpu_config

ONE_CLIP = {"trajectories": ("orbit",), "frames": 2, "clip_length": 2, "max_side": 24}
LOOP = {**ONE_CLIP, "start": 2, "every": 10}


@pytest.fixture(scope="module")
def run(scene, tmp_path_factory) -> Path:
    """The folder of a run with one round, stopped after five steps."""
    with pytest.MonkeyPatch.context() as patch, simulated_cuda():
        install(patch)
        config = small(gpu_config("genfusion"), scene, tmp_path_factory.mktemp("runs"), loop=LOOP)
        trainer = started(config)
        config.save_config()
        take_steps(trainer, 0, 5)
        trainer.save_checkpoint(4)
        return config.get_base_dir()


def test_a_checkpoint_holds_no_trace_of_the_device_and_training_goes_on(gpu, run, scene, tmp_path):
    (checkpoint,) = (run / "nerfstudio_models").iterdir()
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    assert type(saved["pipeline"]["_model.gauss_params.means"]) is torch.Tensor
    config = small(gpu_config("genfusion"), scene, tmp_path, loop=LOOP)
    config.load_dir = checkpoint.parent
    trainer = started(config)
    assert trainer._start_step == 5 and len(trainer.pipeline.datamanager.loop_state.reports) == 1
    take_steps(trainer, 5, 7)
    for name, optimizer in trainer.optimizers.optimizers.items():
        (moments,) = optimizer.state.values()
        assert all(isinstance(value, SimTensor) for value in moments.values()), name


def test_ns_eval(gpu, run, tmp_path):
    from nerfstudio.scripts.eval import ComputePSNR

    ComputePSNR(load_config=run / "config.yml", output_path=tmp_path / "eval.json").main()
    assert 3 < json.loads((tmp_path / "eval.json").read_text())["results"]["psnr"] < 60


def test_ns_export(gpu, run, tmp_path):
    from nerfstudio.scripts.exporter import ExportGaussianSplat

    ExportGaussianSplat(load_config=run / "config.yml", output_dir=tmp_path).main()
    assert (tmp_path / "splat.ply").stat().st_size > 1000


def test_ns_render(gpu, run, tmp_path):
    from nerfstudio.scripts.render import DatasetRender

    names = ["rgb", "depth", "normal", "trust"]
    options = {"load_config": run / "config.yml", "output_path": tmp_path, "split": "test"}
    DatasetRender(**options, rendered_output_names=names).main()
    assert {path.name for path in (tmp_path / "test").iterdir()} == set(names)


def test_what_a_viewer_shows(gpu, run):
    from nerfstudio.data.scene_box import OrientedBox
    from nerfstudio.utils.eval_utils import eval_setup

    _, pipeline, _, _ = eval_setup(run / "config.yml")
    model = pipeline.model
    model.wishes.least_trust = 0.5
    box = OrientedBox.from_params((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (4.0, 4.0, 4.0))
    camera = pipeline.datamanager.eval_dataset.cameras[0:1].to(model.device)
    outputs = model.get_outputs_for_camera(camera, obb_box=box)
    maps = {"rgb": 3, "depth": 1, "normal": 3, "accumulation": 1, "coverage": 1, "trust": 3}
    assert {name: outputs[name].shape[-1] for name in maps} == maps
    assert all(isinstance(outputs[name], SimTensor) for name in maps)
