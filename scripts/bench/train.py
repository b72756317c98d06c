"""Training speed through Nerfstudio's trainer: steps a second at a fixed number of Gaussians, with all losses on.

Runs the `genfusion-cpu` method (or the GPU one with --device cuda) on the procedural scene, without densification,
rounds and evaluation, so that the count stays put. The first steps (kernel compilation, caches) are not counted.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
from rich.console import Console

from genfusion_ns.commands.make_scene import MakeScene
from genfusion_ns.commands.make_scene import run as make_scene
from genfusion_ns.plugin.config import cpu_config, gpu_config
from genfusion_ns.plugin.trainer import GenFusionTrainerConfig


@dataclass
class BenchTrain:
    """Measure training steps a second."""

    gaussians: int = 10_000
    """How many Gaussians, all the time."""
    size: tuple[int, int] = (160, 90)
    """Width and height of the photos."""
    steps: int = 300
    """Counted steps; their median is reported."""
    warm_up: int = 50
    """Steps before, not counted."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to train."""
    json: Path | None = None
    """Write the figures to this file; - prints them instead of the table."""


def config_of(args: BenchTrain, folder: Path) -> GenFusionTrainerConfig:
    """All losses from the first step, nothing that changes the number of Gaussians."""
    scene = folder / "scene"
    make_scene(MakeScene(scene, size=args.size, views=16))
    config = (cpu_config if args.device == "cpu" else gpu_config)("genfusion-bench")
    config.data = config.pipeline.datamanager.data = scene
    config.output_dir = folder
    config.vis = "tensorboard"
    config.max_num_iterations = args.warm_up + args.steps
    config.steps_per_eval_image = config.steps_per_save = 0
    config.pipeline.datamanager.initial_points = "random"
    config.pipeline.datamanager.max_seed_points = args.gaussians
    config.pipeline.datamanager.loop.every = 0
    config.pipeline.model.distortion_lambda = 1e-2
    config.pipeline.model.distortion_start = config.pipeline.model.normal_start = 0
    config.pipeline.model.sh_degree_interval = 1
    config.pipeline.model.densifier.start = 10**9
    config.viewer.quit_on_train_completion = True
    config.set_timestamp()
    return config


def measure(args: BenchTrain) -> dict[str, float | int | str]:
    """Train, and time each step from the end of one to the end of the next."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = config_of(args, Path(folder)).setup(local_rank=0, world_size=1)
        trainer.setup()
        ends: list[float] = []
        trainer.callbacks.append(
            TrainingCallback(
                [TrainingCallbackLocation.AFTER_TRAIN_ITERATION], lambda step: ends.append(time.perf_counter())
            )
        )
        trainer.train()
        model = trainer.pipeline.model
    counted = [after - before for before, after in zip(ends[args.warm_up - 1 :], ends[args.warm_up :], strict=False)]
    median = statistics.median(counted)
    return {
        "rasterizer": model.rasterizer.name,
        "n": model.num_points,
        "width": args.size[0],
        "height": args.size[1],
        "median_ms": round(1000 * median, 2),
        "fastest_tenth_ms": round(1000 * statistics.quantiles(counted, n=10)[0], 2),
        "steps_per_s": round(1 / median, 1),
        "steps_per_s_mean": round(len(counted) / sum(counted), 1),
    }


def main() -> None:
    """Entry point."""
    args = tyro.cli(BenchTrain)
    figures = measure(args)
    if args.json is not None and str(args.json) != "-":
        args.json.write_text(json.dumps(figures, indent=1))
    Console().print_json(data=figures)


if __name__ == "__main__":
    main()
