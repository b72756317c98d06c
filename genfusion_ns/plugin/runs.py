"""Loading a finished run, for the command lines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.utils.eval_utils import eval_setup

from genfusion_ns.cameras import Camera
from genfusion_ns.errors import UserError
from genfusion_ns.plugin.pipeline import GenFusionPipeline
from genfusion_ns.plugin.views import core_cameras


@dataclass
class Run:
    """A trained run, ready to render."""

    config: TrainerConfig
    pipeline: GenFusionPipeline
    step: int
    training_cameras: list[Camera]


def load_run(config_path: Path) -> Run:
    """Load config.yml of a genfusion run with its latest checkpoint.

    Raises:
        UserError: no such file, no checkpoint, or the run of another method.
    """
    if not config_path.is_file():
        raise UserError(
            f"{config_path} does not exist. Expected the config.yml that ns-train wrote, "
            "outputs/<scene>/<method>/<time>/config.yml."
        )
    if not any((config_path.parent / "nerfstudio_models").glob("step-*.ckpt")):
        raise UserError(f"{config_path.parent / 'nerfstudio_models'} holds no checkpoint yet. Train the run first.")
    config, pipeline, _, step = eval_setup(config_path, test_mode="inference")
    if not isinstance(pipeline, GenFusionPipeline):
        raise UserError(f"{config_path} belongs to a {config.method_name} run; expected one of ns-train genfusion.")
    cameras = core_cameras(pipeline.datamanager.train_dataset.cameras)
    return Run(config, pipeline, step, cameras)
