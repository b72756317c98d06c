"""Loading a finished run, for the command lines."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch

from genfusion_ns.cameras import Camera
from genfusion_ns.errors import UserError
from genfusion_ns.plugin.bridge import core_cameras
from genfusion_ns.plugin.pipeline import GenFusionPipeline, GenFusionPipelineConfig
from genfusion_ns.plugin.resume import MODELS, checkpoints, find_checkpoint, fitting_errors, read_checkpoint
from genfusion_ns.plugin.run_config import read_config


class Run(NamedTuple):
    """A trained run, ready to render."""

    pipeline: GenFusionPipeline
    training_cameras: list[Camera]


def load_run(config_path: Path) -> Run:
    """Load config.yml of a genfusion run with its latest checkpoint; neither file's content is executed. Raises
    UserError: no such file, no checkpoint, one that can't be read, or the run of another method."""
    if not config_path.is_file():
        raise UserError(
            f"{config_path} does not exist. Expected the config.yml that ns-train wrote, "
            "outputs/<scene>/<method>/<time>/config.yml."
        )
    models = config_path.parent / MODELS
    if not checkpoints(models):
        raise UserError(f"{models} holds no checkpoint yet. Train the run first.")
    config = read_config(config_path)
    if not isinstance(config.pipeline, GenFusionPipelineConfig):
        raise UserError(f"{config_path} belongs to a {config.method_name} run; expected one of ns-train genfusion.")
    path = find_checkpoint(models)
    state = read_checkpoint(path)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pipeline: GenFusionPipeline = config.pipeline.setup(device=device, test_mode="inference")
    pipeline.eval()
    with fitting_errors(path):
        pipeline.load_pipeline(state["pipeline"], state["step"])
    return Run(pipeline, core_cameras(pipeline.datamanager.train_dataset.cameras))


def remove_unused_run(folder: Path) -> None:
    """Remove the folder of a run that never began: its config.yml and the empty folders above it, up to Nerfstudio's
    outputs/. A folder with anything else in it stays."""
    if not folder.is_dir() or any(path.name != "config.yml" for path in folder.iterdir()):
        return
    (folder / "config.yml").unlink(missing_ok=True)
    scene, method, outputs = folder.parents[1], folder.parents[0], folder.parents[2]
    with suppress(OSError):  # not empty, or another's
        for place in (folder, method, scene, *([outputs] if outputs.name == "outputs" else [])):
            place.rmdir()
