"""Short training runs of the GPU preset on the make-believe device, step by step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from nerfstudio.engine.callbacks import TrainingCallbackLocation

from genfusion_ns.loop.config import LoopConfig
from genfusion_ns.plugin.trainer import GenFusionTrainer

BEFORE, AFTER = TrainingCallbackLocation.BEFORE_TRAIN_ITERATION, TrainingCallbackLocation.AFTER_TRAIN_ITERATION


def make_scene(out: Path, photos: int = 14, width: int = 48, height: int = 30) -> Path:
    """Photos of a procedural room with poses and points; with 12 and more, one judges the rounds. They are too small
    for LPIPS, whose weights a test should not ask for.
    """
    from genfusion_ns.synthetic.demo import demo_path, demo_scene
    from genfusion_ns.synthetic.write import write_scene

    write_scene(out, demo_scene(), demo_path(photos, width, height), {"views": photos}, points=400, supersample=1)
    return out


def small(config: Any, scene: Path, out: Path, steps: int = 140, loop: dict[str, Any] | None = None) -> Any:
    """A method's configuration at the size of a test; step numbers count as they are.

    Rounds after steps 20 and 40 of a `loop` that can be overridden, growth every ten steps from step 10 on.
    """
    config.data = config.pipeline.datamanager.data = scene
    config.output_dir = out
    config.vis = "tensorboard"
    config.max_num_iterations = steps
    config.logging.local_writer.enable = False
    config.steps_per_eval_image = 0
    config.steps_per_save = 10**9
    views, model = config.pipeline.datamanager, config.pipeline.model
    views.max_seed_points, views.initial_points = 400, "all"
    views.reference_iterations = model.reference_iterations = steps
    model.distortion_start = model.normal_start = 5
    model.densifier = replace(
        model.densifier, start=5, stop=100, every=10, visible_base=2, visible_cap=2, grow_grad2d=1e-5, reset_every=0
    )
    given = {"repairer": "classical", "frames": 4, "clip_length": 4, "start": 20, "every": 20, "until": 120}
    views.loop = replace(views.loop, **{**given, **(loop or {})})
    assert isinstance(views.loop, LoopConfig)
    config.set_timestamp()
    return config


def started(config: Any) -> GenFusionTrainer:
    """A trainer, ready for its first step."""
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    return trainer


def take_steps(trainer: GenFusionTrainer, first: int, last: int) -> None:
    """Steps first, ..., last - 1 with all that Nerfstudio calls before and after each."""
    for step in range(first, last):
        trainer.pipeline.train()
        for callback in trainer.callbacks:
            callback.run_callback_at_location(step, location=BEFORE)
        trainer.train_iteration(step)
        for callback in trainer.callbacks:
            callback.run_callback_at_location(step, location=AFTER)
        trainer.step = step


def splats(trainer: GenFusionTrainer) -> dict[str, Any]:
    """Parameters by name, on the CPU."""
    return {name: p.detach().cpu() for name, p in trainer.pipeline.model.gauss_params.items()}
